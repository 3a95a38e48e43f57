"""Results on disk with checksums, so that any changed bit is noticed.

A JSON object, and NumPy archives beside it. The JSON holds the SHA-256 of each
archive, and one of itself: of its values, not of its layout.
"""

from collections.abc import Sequence
import hashlib
import io
import json
import os

import numpy as np

from diffai_jax.storage import files, store
from diffai_jax.types import UsageError

_OWN = "sha256"
_FILES = "files"


class DamagedError(UsageError):
  """A file is not what was written."""


def digest_of(value) -> str:
  """SHA-256 of a value that JSON can hold, whatever the order of its keys."""
  text = json.dumps(value, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest_of_arrays(arrays: Sequence[np.ndarray]) -> str:
  """SHA-256 of types, shapes and bytes, in order, as hexadecimal digits."""
  found = hashlib.sha256()
  for array in arrays:
    found.update(f"{array.dtype.name}{array.shape}".encode())
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
  return found.hexdigest()


def write(
    folder: str,
    name: str,
    value: dict,
    archives: dict[str, dict[str, np.ndarray]],
) -> None:
  """Writes the archives, then the JSON object `name` with their checksums.

  The old object goes first: killed in between, the folder has no results, and
  never a mixture.

  Args:
    folder: where; it exists.
    name: of the JSON file.
    value: what it holds.
    archives: arrays by name, by the name of the file.

  Raises:
    OSError: if something cannot be written.
  """
  path = os.path.join(folder, name)
  if store.exists(path):
    store.delete(path)
  digests = {}
  for archive, arrays in archives.items():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    digests[archive] = hashlib.sha256(buffer.getvalue()).hexdigest()
    with files.replacing(os.path.join(folder, archive), binary=True) as file:
      file.write(buffer.getvalue())
  value = value | {_FILES: digests}
  files.write_json(path, value | {_OWN: digest_of(value)})


def read(path: str, advice: str) -> dict | None:
  """The JSON object at `path`, or None if there is no such file.

  Its archives are read, too, and compared with what it says of them.

  Args:
    path: of the JSON file.
    advice: what to do about damage.

  Raises:
    DamagedError: if anything is not what was written.
  """
  try:
    if not store.exists(path):
      return None
    with store.opened(path, "r") as file:
      value = json.load(file)
  except OSError as error:
    raise _damaged(path, files.reason(error), advice) from None
  except (ValueError, RecursionError):  # UTF-8's and JSON's.
    raise _damaged(path, "it is no JSON", advice) from None
  if not isinstance(value, dict) or not isinstance(value.get(_FILES), dict):
    raise _damaged(path, "it holds something else", advice)
  rest = {key: entry for key, entry in value.items() if key != _OWN}
  if digest_of(rest) != value.get(_OWN):
    raise _damaged(path, "its SHA-256 is another", advice)
  for archive, digest in value[_FILES].items():
    _content(os.path.join(os.path.dirname(path), archive), digest, advice)
  return rest


def arrays(path: str, value: dict, archive: str, advice: str) -> dict:
  """The arrays of an archive beside the JSON object at `path`, by name.

  Args:
    path: of the JSON file.
    value: what `read` gave.
    archive: the file's name.
    advice: what to do about damage.

  Raises:
    DamagedError: if they are not what was written.
  """
  digest = value[_FILES].get(archive)
  where = os.path.join(os.path.dirname(path), archive)
  content = _content(where, digest, advice)
  with np.load(io.BytesIO(content), allow_pickle=False) as found:
    return dict(found)


def _content(path: str, digest: str | None, advice: str) -> bytes:
  try:
    content = store.read_bytes(path)
  except OSError as error:
    raise _damaged(path, files.reason(error), advice) from None
  if hashlib.sha256(content).hexdigest() != digest:
    raise _damaged(path, "its SHA-256 is another", advice)
  return content


def _damaged(path: str, reason: str | None, advice: str) -> DamagedError:
  return DamagedError(f"{path} is damaged ({reason}); {advice}")
