"""Blocks of results, appended to a file as they come.

A line a block: the SHA-256 of the rest, and a JSON object with arrays of bytes
in it. A line that a kill cut short, or that changed since, is left out when the
file is read, and its examples are measured again. An object store appends to
nothing: there each line is an object below the file's name.
"""

import base64
from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
import json
import os
import zlib

import numpy as np

from diffai_jax.storage import files, store


@dataclasses.dataclass
class Found:
  """What is known of a phase.

  Attributes:
    batch: how many examples its program takes on a device; None if nothing is
      known.
    rows: which examples are known, in the order of the blocks.
    arrays: what was found of each of them, [len(rows), ...] by name.
    seconds: how long it took.
  """

  batch: int | None
  rows: np.ndarray
  arrays: dict[str, np.ndarray]
  seconds: float


class Journal:
  """The blocks of one certification; without a path none is kept."""

  def __init__(self, path: str | None = None, identity: str = ""):
    """Takes over the whole blocks of a file, if it is of the same identity.

    Args:
      path: the file, or None for a journal that keeps nothing.
      identity: says what is measured, of what and how. Blocks of a file with
        another are dropped.

    Raises:
      OSError: if the file cannot be read or written.
    """
    self._path, self._file = path, None
    self._blocks: list[dict] = []
    if path is None:
      return
    head = {"identity": identity}
    lines = []
    if store.is_remote(path):
      self._file = _Objects(path)
      lines = self._file.lines()
    elif os.path.lexists(path):
      with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    objects = [_parse(line) for line in lines]
    if head in objects:
      self._blocks = [b for b in objects if b and "phase" in b]
    if self._file is not None:
      self._file.keep(map(_line, (head, *self._blocks)))
      return
    # Whole lines alone, so that the next one begins where a line does.
    with files.replacing(path, binary=True) as file:
      for value in (head, *self._blocks):
        file.write(_line(value))
    self._file = open(path, "ab")

  def blocks(self, phase: str) -> list[dict]:
    """What the file held of a phase when it was opened: values of JSON."""
    return [block for block in self._blocks if block["phase"] == phase]

  def found(self, phase: str) -> Found:
    """The same, put together."""
    return found_in(self.blocks(phase))

  def append(
      self,
      phase: str,
      batch: int,
      rows: Sequence[int],
      arrays: dict[str, np.ndarray],
      seconds: float,
  ) -> None:
    """Appends a block; when this returns, it is on the disk.

    Raises:
      OSError: if it cannot be written.
    """
    if self._file is None:
      return
    block = {
        "phase": phase,
        "batch": batch,
        "rows": [int(row) for row in rows],
        "arrays": {name: _encoded(a) for name, a in arrays.items()},
        "seconds": seconds,
    }
    self._file.write(_line(block))
    if not store.is_remote(self._path):
      self._file.flush()
      os.fsync(self._file.fileno())

  def close(self) -> None:
    """Closes the file, and leaves it where it is."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def remove(self) -> None:
    """Closes and removes the file: what it held is written elsewhere."""
    self.close()
    if self._path is None:
      return
    if store.is_remote(self._path):
      store.remove(self._path)
    else:
      os.remove(self._path)


class _Objects:
  """Lines in an object store: each is an object, named by its number."""

  def __init__(self, path: str):
    self._path = path
    there = store.is_folder(path)
    self._names = store.names_in(path) if there else []
    self._next = 0

  def lines(self) -> list[bytes]:
    """All of them in order, as they were written."""
    return [
        store.read_bytes(os.path.join(self._path, name)).removesuffix(b"\n")
        for name in self._names
    ]

  def keep(self, lines: Iterable[bytes]) -> None:
    """Drops all others; killed in between, those that are left are whole."""
    for line in lines:
      self.write(line)
    for name in self._names[self._next :]:
      store.delete(os.path.join(self._path, name))

  def write(self, line: bytes) -> None:
    """Appends a line."""
    store.write_object(
        os.path.join(self._path, f"{self._next:08}"), line
    )
    self._next += 1

  def close(self) -> None:
    """There is nothing to close."""


def found_in(blocks: Sequence[dict]) -> Found:
  """What blocks of one phase say, as `Journal.blocks` gives them."""
  arrays = [
      {name: _decoded(a) for name, a in block["arrays"].items()}
      for block in blocks
  ]
  return Found(
      batch=blocks[0]["batch"] if blocks else None,
      rows=np.array([r for block in blocks for r in block["rows"]], int),
      arrays={
          name: np.concatenate([a[name] for a in arrays])
          for name in (arrays[0] if arrays else ())
      },
      seconds=sum(block["seconds"] for block in blocks),
  )


def _line(value: dict) -> bytes:
  text = json.dumps(value, separators=(",", ":")).encode("ascii")
  return hashlib.sha256(text).hexdigest().encode("ascii") + b" " + text + b"\n"


def _parse(line: bytes) -> dict | None:
  """The object in a line, or None if the line is not what was written."""
  digest, _, text = line.partition(b" ")
  if hashlib.sha256(text).hexdigest().encode("ascii") != digest:
    return None
  return json.loads(text)


def _encoded(array: np.ndarray) -> dict:
  array = np.ascontiguousarray(array)
  data = zlib.compress(array.tobytes(), 1)
  return {
      "dtype": array.dtype.name,
      "shape": array.shape,
      "data": base64.b64encode(data).decode("ascii"),
  }


def _decoded(array: dict) -> np.ndarray:
  data = zlib.decompress(base64.b64decode(array["data"]))
  return np.frombuffer(data, array["dtype"]).reshape(array["shape"])
