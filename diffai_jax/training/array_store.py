"""Arrays in a folder: Orbax behind two functions, and digests of its files.

Orbax and etils match paths as patterns (`runs/lr[0.1]` is one), so they are
given a path without any character that a pattern has. To an object store they
write directly.
"""

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import os
import re
import tempfile

import jax
import numpy as np
import orbax.checkpoint as ocp

from diffai_jax.storage import files, store
from diffai_jax.types import reason

# What Orbax writes beside the arrays' bytes takes less than this.
_OVERHEAD = 64 * 1024


class StoreError(Exception):
  """Arrays cannot be written or read; the message is the reason, one line."""


def digests_of_files(folder: str) -> dict[str, str]:
  """SHA-256 of every file below a folder, by its path in it.

  Raises:
    OSError: if one cannot be read.
  """
  found = {}
  for name, path in store.files_below(folder):
    with store.opened(path) as file:
      found[name] = hashlib.file_digest(file, "sha256").hexdigest()
  return found


def write(folder: str, arrays: Sequence[np.ndarray]) -> None:
  """Writes arrays into a new folder.

  Args:
    folder: does not exist; the folder that it is in does.
    arrays: of any shapes.

  Raises:
    OSError: if there is no room for them, or nothing may be written.
    StoreError: if Orbax fails on something else.
  """
  # Orbax's threads would meet a full disk one by one, and raise a ValueError.
  size = sum(array.nbytes for array in arrays)
  files.require_room(folder + ".room", size + _OVERHEAD)
  with _plain(folder) as path, _checkpointer() as checkpointer:
    try:
      checkpointer.save(path, args=ocp.args.PyTreeSave(_named(arrays)))
    except (ValueError, RuntimeError) as error:  # OSErrors come through.
      raise StoreError(reason(error)) from error


def read(folder: str, like: Sequence[np.ndarray]) -> list[np.ndarray]:
  """The arrays that `write` wrote.

  Args:
    folder: as `write` made it.
    like: arrays of the same shapes and types; their values do not matter.

  Raises:
    OSError, StoreError: if they cannot be read.
  """
  wanted = {
      name: ocp.RestoreArgs(restore_type=np.ndarray) for name in _named(like)
  }
  with _plain(folder) as path, _checkpointer() as checkpointer:
    try:
      found = checkpointer.restore(
          path, args=ocp.args.PyTreeRestore(restore_args=wanted)
      )
    except (ValueError, KeyError, RuntimeError) as error:
      raise StoreError(reason(error)) from error
  return [
      np.asarray(found.get(str(number), empty))
      for number, empty in enumerate(like)
  ]


def _named(arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
  """By their numbers; without those of no elements, which Orbax refuses."""
  return {str(n): array for n, array in enumerate(arrays) if array.size}


def _checkpointer() -> ocp.Checkpointer:
  """One of this process alone: it waits for no other."""
  own = jax.process_index()
  alone = ocp.options.MultiprocessingOptions(
      primary_host=own, active_processes={own},
      barrier_sync_key_prefix=f"process{own}",
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
  return ocp.Checkpointer(handler, multiprocessing_options=alone)


@contextlib.contextmanager
def _plain(folder: str) -> Iterator[str]:
  """A path to the folder that means the same when it is taken as a pattern."""
  if store.is_remote(folder):
    try:
      yield folder
    except (OSError, ValueError, KeyError, RuntimeError, StoreError):
      raise
    except Exception as error:  # Each store has its own.
      raise StoreError(reason(error)) from error
    return
  folder = os.path.abspath(folder)
  if re.fullmatch(r"[\w/.,=+-]*", folder, re.ASCII):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix="diffai_jax-") as place:
    link = os.path.join(place, "folder")
    os.symlink(os.path.dirname(folder), link)
    yield os.path.join(link, os.path.basename(folder))
