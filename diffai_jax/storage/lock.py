"""One process at a time works in a folder: an advisory lock of the system.

The kernel releases it when the process ends, however it ends. An object store
has none, and neither have its work folders.
"""

import dataclasses
import errno
import os
import socket
from typing import IO

from diffai_jax.storage import store
from diffai_jax.types import UsageError

try:
  import fcntl
except ImportError:  # Windows has none; there, nothing is locked.
  fcntl = None

FILE = "in_use"
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclasses.dataclass(frozen=True)
class Lock:
  """A held lock; `file` stays open until it is released."""

  path: str
  file: IO


def acquire(folder: str) -> Lock | None:
  """Locks a folder for this process; None is a folder without locks.

  Raises:
    UsageError: if another process, which is named, has locked it.
    OSError: if the lock's file cannot be made.
  """
  if store.is_remote(folder):
    return None
  path = os.path.join(folder, FILE)
  while True:
    file = open(path, "a+", encoding="utf-8", errors="replace")
    try:
      if not _lock(file):
        file.seek(0)
        holder = " ".join(file.read(200).split()) or "another process"
        raise UsageError(
            f"{folder} is in use by {holder}; wait for it, or choose another"
            f" --workdir"
        )
      # The holder before may have removed the file that was opened.
      if _is_at(file, path):
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        return Lock(path, file)
    except BaseException:
      file.close()
      raise
    file.close()


def release(lock: Lock | None) -> None:
  """Releases the folder, and removes the lock's file."""
  if lock is None:
    return
  try:
    if _is_at(lock.file, lock.path):
      os.unlink(lock.path)
  except OSError:
    pass  # A file that nobody has locked does no harm.
  lock.file.close()


def _lock(file: IO) -> bool:
  """Whether the lock is ours; no other process can have it then."""
  if fcntl is None:
    return True
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
  return True


def _is_at(file: IO, path: str) -> bool:
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False
