"""Files of a work folder: written whole or not at all, read with one error."""

from collections.abc import Iterator
import contextlib
import json
import os
from typing import IO

from diffai_jax.types import UsageError


@contextlib.contextmanager
def replacing(path: str, binary: bool = False) -> Iterator[IO]:
  """Opens a file to write that takes the place of `path` once it is whole.

  If the block raises, or the process dies in it, `path` is as it was.

  Args:
    path: the file to make or replace.
    binary: whether bytes are written, and not text in UTF-8.
  """
  temporary = path + ".tmp"
  encoding = None if binary else "utf-8"
  with open(temporary, "wb" if binary else "w", encoding=encoding) as file:
    yield file
  os.replace(temporary, path)


def write_json(path: str, value: dict) -> None:
  """Writes a JSON object, indented, all or nothing."""
  with replacing(path) as file:
    json.dump(value, file, indent=2)
    file.write("\n")


def read_json(path: str, advice: str) -> dict | None:
  """The JSON object in a file, or None if there is no such file.

  Args:
    path: the file.
    advice: what to do about one that cannot be read.

  Raises:
    UsageError: if it cannot be read, or holds something else.
  """
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding="utf-8") as file:
      value = json.load(file)
    if not isinstance(value, dict):
      raise ValueError("it holds no JSON object")
    return value
  except (OSError, ValueError) as error:
    raise UsageError(f"{path} cannot be read ({error}); {advice}") from None
