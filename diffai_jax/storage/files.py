"""Files of a work folder: written atomically, read with one kind of error."""

from collections.abc import Collection, Iterator
import contextlib
import io
import json
import os
from typing import IO

from diffai_jax.storage import store
from diffai_jax.types import UsageError

# What the name of an unfinished file or folder ends with: a killed process
# leaves it behind, and the next one that holds the folder removes it.
UNFINISHED = ".tmp"
_CHUNK = 1024 * 1024
_ORBAX_UNFINISHED = ".orbax-checkpoint-tmp"


class CannotWrite(UsageError, OSError):
  """A file could not be written: one line with its path and the reason."""

  def __init__(self, path: str, error: OSError):
    super().__init__(
        f"cannot write {path} ({reason(error)}); make room for it, or choose"
        f" another folder"
    )
    self.errno, self.strerror = error.errno, reason(error)

  def __str__(self) -> str:
    return self.args[0]


@contextlib.contextmanager
def replacing(path: str, binary: bool = False) -> Iterator[IO]:
  """Opens a file to write that takes the place of `path` once it is whole.

  If the block raises, or the process dies in it, `path` is as it was. Once the
  block has ended the file is on the disk, even if the power fails; or in the
  store, which takes an object whole.

  Args:
    path: the file to make or replace.
    binary: whether bytes are written, and not text in UTF-8.

  Raises:
    CannotWrite: if the disk is full, or the folder may not be written.
  """
  if store.is_remote(path):
    with _replacing_object(path, binary) as file:
      yield file
    return
  temporary = f"{path}.{os.getpid()}{UNFINISHED}"
  encoding = None if binary else "utf-8"
  try:
    with open(temporary, "wb" if binary else "w", encoding=encoding) as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))
  except BaseException as error:  # Of signals, too: nothing half-written stays.
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    if isinstance(error, OSError):
      raise CannotWrite(path, error) from None
    raise


@contextlib.contextmanager
def _replacing_object(path: str, binary: bool) -> Iterator[IO]:
  buffer = io.BytesIO() if binary else io.StringIO()
  yield buffer
  content = buffer.getvalue()
  try:
    store.write_object(path, content if binary else content.encode("utf-8"))
  except OSError as error:
    raise CannotWrite(path, error) from None


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
  try:
    if not store.exists(path):
      return None
    with store.opened(path, "r") as file:
      value = json.load(file)
    if not isinstance(value, dict):
      raise ValueError("it holds no JSON object")
    return value
  except OSError as error:
    cause = reason(error)
  except RecursionError:  # A file of nothing but opening brackets.
    cause = "it is nested too deep"
  except ValueError as error:  # Of JSON and of UTF-8.
    cause = str(error)
  raise UsageError(f"{path} cannot be read ({cause}); {advice}")


def reason(error: OSError) -> str:
  """Why the system refused, without the path: "No space left on device"."""
  return error.strerror or str(error) or type(error).__name__


def require_room(path: str, size: int) -> None:
  """Raises the system's own error where that many bytes cannot be written.

  Args:
    path: of a file that is made and removed. A store has room.
    size: in bytes.
  """
  if store.is_remote(path):
    return
  try:
    with open(path, "wb", buffering=0) as file:
      left = size
      while left:  # After a short write, the next one raises.
        left -= file.write(bytes(min(left, _CHUNK)))
  finally:
    with contextlib.suppress(OSError):
      os.unlink(path)


def sync_folder(path: str) -> None:
  """Waits until the names in a folder are on the disk."""
  # Elsewhere folders cannot be opened; a store keeps what it has taken.
  if os.name != "posix" or store.is_remote(path):
    return
  descriptor = os.open(path or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def sync_tree(path: str) -> None:
  """Waits until all files and folders below a folder are on the disk."""
  if store.is_remote(path):
    return
  for folder, _, names in os.walk(path):
    for name in names:
      with open(os.path.join(folder, name), "rb") as file:
        os.fsync(file.fileno())
    sync_folder(folder)


def remove_unfinished(folder: str, but: Collection[str] = ()) -> None:
  """Removes what killed processes left half-written in a folder.

  Args:
    folder: not looked into its folders.
    but: paths that stay.
  """
  with contextlib.suppress(OSError):
    for name in store.names_in(folder):
      path = os.path.join(folder, name)
      unfinished = name.endswith(UNFINISHED) or _ORBAX_UNFINISHED in name
      if unfinished and path not in but:
        store.remove(path)
