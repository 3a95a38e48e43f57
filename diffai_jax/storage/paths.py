"""Paths that a user gives: checked before anything is looked for there."""

import os
import re

from diffai_jax.storage import store
from diffai_jax.types import UsageError, shown

# What Linux, macOS and most file systems take.
_LONGEST_PATH = 4095
_LONGEST_NAME = 255
# What libraries take as it is, and not as a pattern or a part of an address.
_OBJECT = re.compile(r"\w+://[^/*?\[\]{}#\\\x00-\x1f]+(/[^*?\[\]{}#\\\x00-\x1f]*)?")
_ONE_SLASH = re.compile(r"(gs|s3|az):/[^/]")


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
  elif store.scheme_of(path) and not store.is_remote(path):
    reason = f"a path of this machine, or one of {', '.join(store.SCHEMES)}"
  elif _ONE_SLASH.match(path):
    reason = "two slashes after the scheme; pathlib.Path drops one, so give text"
  elif store.is_remote(path):
    if _OBJECT.fullmatch(path):
      return store.absolute(path)
    reason = "SCHEME://BUCKET/NAME without any of *?[]{}#\\ and line breaks"
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
