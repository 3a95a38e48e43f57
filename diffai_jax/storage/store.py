"""Files and folders wherever a path says: on this machine, or in a bucket.

All that a work folder holds goes through here. Local paths are used as the system
has them. Those with a scheme, `gs://bucket/run`, are an object store's, reached by
`etils.epath`. An object is written whole or not at all; it cannot be appended to,
renamed or locked, and there are no folders: names with a slash, that is all. What
goes wrong there is an OSError, as it is here.
"""

from collections.abc import Iterator
import contextlib
import functools
import io
import os
import shutil
from typing import IO

from etils import epath
import fsspec

from diffai_jax.types import UsageError, reason

# Schemes that etils knows, what reaches them, and the extra that brings it.
_PACKAGES = {
    "gs": ("gcsfs", "'diffai_jax[gcs]'"),
    "s3": ("s3fs", "s3fs"),
    "az": ("adlfs", "adlfs"),
}
SCHEMES = tuple(f"{name}://" for name in _PACKAGES)


class CannotReach(UsageError, OSError):
  """A store refused, or did not answer: one line with the path and the reason."""

  def __init__(self, path: str, cause: str):
    super().__init__(
        f"{path} cannot be reached ({cause}); the same command tries again"
    )
    self.errno, self.strerror = None, cause

  def __str__(self) -> str:
    return self.args[0]


def scheme_of(path: str) -> str | None:
  """What stands before "://", known or not; None of a local path."""
  scheme, there, _ = path.partition("://")
  return scheme if there and scheme.isalnum() else None


def is_remote(path: str) -> bool:
  """Whether a path is an object store's."""
  return path.startswith(SCHEMES)


@contextlib.contextmanager
def _reaching(path: str) -> Iterator[epath.Path]:
  """The remote path; whatever goes wrong within is told as here.

  Raises:
    CannotReach: with the reason in one line; FileNotFoundError and the like are
      what they are.
    UsageError: if the package for its scheme is missing.
  """
  _list_anew()
  try:
    yield epath.Path(path)
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
    raise
  except ImportError:
    scheme = scheme_of(path)
    package, given = _PACKAGES[scheme]
    raise UsageError(
        f"{path} cannot be reached: {scheme}:// needs {package}; pip install"
        f" {given}"
    ) from None
  except Exception as error:  # Of HTTP, credentials: each store has its own.
    raise CannotReach(path, reason(error)) from error


@functools.cache
def _list_anew() -> None:
  """Listings are not kept: Orbax writes to the same places by other ways."""
  for protocol in ("gcs", "s3", "az"):
    fsspec.config.conf.setdefault(protocol, {}).setdefault(
        "use_listings_cache", False
    )


def exists(path: str) -> bool:
  """Whether there is a file, link or folder; of a store, an object or prefix."""
  if not is_remote(path):
    return os.path.lexists(path)
  with _reaching(path) as place:
    return place.exists()


def is_folder(path: str) -> bool:
  """Whether there is a folder; of a store, objects with this prefix."""
  if not is_remote(path):
    return os.path.isdir(path)
  with _reaching(path) as place:
    return place.is_dir()


def is_file(path: str) -> bool:
  """Whether there is a file, or an object of just this name."""
  if not is_remote(path):
    return os.path.isfile(path)
  return exists(path) and not is_folder(path)


def names_in(folder: str) -> list[str]:
  """The names in a folder, sorted.

  Raises:
    OSError: if there is none, or it cannot be read.
  """
  if not is_remote(folder):
    return sorted(os.listdir(folder))
  with _reaching(folder) as place:
    return sorted(child.name for child in place.iterdir())


def make_folders(folder: str, exist_ok: bool = True) -> None:
  """Makes a folder and those that it is in; a store needs none."""
  if not is_remote(folder):
    os.makedirs(folder, exist_ok=exist_ok)


def rename(old: str, new: str) -> None:
  """Renames a file or folder of this machine; a store has no such thing."""
  os.replace(old, new)


@contextlib.contextmanager
def opened(path: str, mode: str = "rb") -> Iterator[IO]:
  """Opens a file to read it, "rb" or "r", which is UTF-8.

  Raises:
    OSError: if it cannot be.
  """
  encoding = None if "b" in mode else "utf-8"
  if not is_remote(path):
    with open(path, mode, encoding=encoding) as file:
      yield file
    return
  file = io.BytesIO(read_bytes(path))
  yield file if encoding is None else io.TextIOWrapper(file, encoding)


def read_bytes(path: str) -> bytes:
  """All that a file holds.

  Raises:
    OSError: if it cannot be read.
  """
  if not is_remote(path):
    with open(path, "rb") as file:
      return file.read()
  with _reaching(path) as place:
    return place.read_bytes()


def write_object(path: str, content: bytes) -> None:
  """Writes a remote object, which takes the place of one that is there.

  Raises:
    OSError: if it cannot be; the one that was there still is.
  """
  with _reaching(path) as place:
    place.write_bytes(content)


def files_below(folder: str) -> Iterator[tuple[str, str]]:
  """Every file below a folder: its path in it, with slashes, and its path.

  Raises:
    OSError: if one cannot be listed.
  """
  if is_remote(folder):
    for name in names_in(folder):
      path = os.path.join(folder, name)
      if is_folder(path):
        for inner, full in files_below(path):
          yield f"{name}/{inner}", full
      else:
        yield name, path
    return
  for parent, _, names in os.walk(folder, onerror=_raise):
    for name in names:
      path = os.path.join(parent, name)
      yield os.path.relpath(path, folder).replace(os.sep, "/"), path


def _raise(error: OSError) -> None:
  raise error


def copy(source: str, target: str) -> None:
  """Copies a file to where it is not yet, within its folder or store.

  Raises:
    OSError: if it cannot be.
  """
  if is_remote(target):
    write_object(target, read_bytes(source))
  else:
    shutil.copyfile(source, target)


def delete(path: str) -> None:
  """Deletes one file.

  Raises:
    OSError: if there is none, or it cannot be.
  """
  if not is_remote(path):
    os.remove(path)
    return
  with _reaching(path) as place:
    place.unlink()


def remove(path: str) -> None:
  """Removes a file or a folder with all that it holds, if it is there.

  What cannot be removed stays, which does no harm.
  """
  if is_remote(path):
    with contextlib.suppress(OSError), _reaching(path) as place:
      if place.is_dir():
        place.rmtree(missing_ok=True)
      else:
        place.unlink(missing_ok=True)
  elif os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      os.unlink(path)


def absolute(path: str) -> str:
  """The whole path, "~" the user's home; of a store without "." and ".."."""
  if not is_remote(path):
    return os.path.abspath(os.path.expanduser(path))
  scheme, _, rest = path.partition("://")
  return f"{scheme}://{os.path.normpath(rest.strip('/'))}"


def is_same(one: str, other: str) -> bool:
  """Whether two paths lead to the same place; links are followed."""
  return _real(one) == _real(other)


def _real(path: str) -> str:
  return absolute(path) if is_remote(path) else os.path.realpath(
      os.path.expanduser(path)
  )
