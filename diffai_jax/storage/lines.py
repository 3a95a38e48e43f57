"""Files that are appended to, a few lines now and then, here or in a store."""

import contextlib
import os
import time

from diffai_jax.storage import store

# An object store takes a file again as a whole, and not every moment.
_SECONDS_BETWEEN_UPLOADS = 15.0


def opened(path: str) -> "File | Object":
  """A file that exists, to append to.

  Raises:
    OSError: if it cannot be opened.
  """
  return Object(path) if store.is_remote(path) else File(path)


class File:
  """A file of this machine that is appended to: all that is given, or nothing.

  Attributes:
    due: has no meaning here; each line is written as it comes.
  """

  def __init__(self, path: str):
    self.due = True
    self._file = open(path, "ab", buffering=0)
    self._size = os.fstat(self._file.fileno()).st_size

  def append(self, data: bytes) -> None:
    """Appends it.

    Raises:
      OSError: if it cannot be written.
    """
    left = data
    try:
      while left:
        left = left[self._file.write(left):]
    except OSError:
      with contextlib.suppress(OSError):
        os.ftruncate(self._file.fileno(), self._size)
      raise
    self._size += len(data)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


class Object:
  """The same in a store that appends to nothing: now and then all is written.

  Attributes:
    due: whether the next call writes, however short ago the last one was.
  """

  def __init__(self, path: str):
    self.due = False
    self._path = path
    self._content = self._stored = store.read_bytes(path)
    self._written = time.monotonic()

  def append(self, data: bytes) -> None:
    """Appends it to what is written next.

    Raises:
      OSError: if it was written now, and cannot be; it is not appended.
    """
    content = self._content + data
    late = time.monotonic() - self._written > _SECONDS_BETWEEN_UPLOADS
    if (self.due or late) and content != self._stored:
      store.write_object(self._path, content)
      self._stored, self._written = content, time.monotonic()
    self._content, self.due = content, False

  def close(self) -> None:
    """There is nothing to close."""
