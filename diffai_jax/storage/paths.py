"""Paths that a user gives: checked before anything is looked for there."""

import os

from diffai_jax.types import UsageError, shown

# What Linux, macOS and most file systems take.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255


def checked_path(path: str, name: str) -> str:
  """The path, its "~" the user's home.

  Args:
    path: as it was given; it need not exist.
    name: what to call it in a message, such as "--workdir".

  Raises:
    UsageError: if no file system could hold it, or a file in it could not
      tell of it: libraries and JSON take paths in UTF-8.
  """
  if not isinstance(path, str) or not path.strip():
    reason = "a path"
  elif "\0" in path:
    reason = "a path without NUL characters"
  elif not _is_unicode(path):
    reason = "a path in UTF-8"
  else:
    path = os.path.expanduser(path)
    names = path.encode().split(b"/")
    if sum(map(len, names)) + len(names) > _LONGEST_PATH:
      reason = f"a path of at most {_LONGEST_PATH} bytes"
    elif max(map(len, names)) > _LONGEST_NAME:
      reason = f"names of at most {_LONGEST_NAME} bytes in it"
    else:
      return path
  raise UsageError(f"{name} is {shown(path)}; expected {reason}")


def _is_unicode(path: str) -> bool:
  """Whether it is; of other bytes Python makes lone surrogates."""
  try:
    path.encode()
  except UnicodeEncodeError:
    return False
  return True
