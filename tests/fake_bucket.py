"""A bucket gs://bucket/ that is a local folder, and refuses what a store refuses."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from unittest import mock

from etils.epath import backend
from etils.epath import gpath
from orbax.checkpoint._src.path import gcs_utils


class Bucket(backend.Backend):
  """etils' backend for gs://bucket/.

  There are no folders: they come with the first object below them and go with the
  last. Objects are read and written whole; nothing is appended or renamed.

  Attributes:
    writes: the names of the objects written, in order.
    broken: an exception that every call raises, or None.
  """

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)
    self.writes = []
    self.broken = None

  def local(self, path) -> pathlib.Path:
    path = os.fspath(path)
    if self.broken is not None:
      raise self.broken
    assert path.startswith("gs://bucket"), path
    return self.folder / path.removeprefix("gs://bucket").lstrip("/")

  @contextlib.contextmanager
  def open(self, path, mode):
    place = self.local(path)
    if "a" in mode or "+" in mode:
      raise NotImplementedError("objects cannot be appended to")
    if "w" not in mode:
      with open(place, mode) as file:
        yield file
      return
    assert not place.is_dir(), path
    handle, temporary = tempfile.mkstemp(dir=self.folder.parent)
    with open(handle, mode) as file:
      yield file
    place.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, place)
    self.writes.append(os.fspath(path))

  def exists(self, path):
    return self.local(path).exists()

  def isdir(self, path):
    return self.local(path).is_dir()

  def listdir(self, path):
    return os.listdir(self.local(path))

  def glob(self, path):
    found = sorted(self.folder.glob(str(self.local(path).relative_to(self.folder))))
    return [f"gs://bucket/{p.relative_to(self.folder)}" for p in found]

  def walk(self, top, *, top_down=True, on_error=None):
    for parent, folders, names in os.walk(self.local(top), top_down, on_error):
      inside = pathlib.Path(parent).relative_to(self.folder)
      yield f"gs://bucket/{inside}", folders, names

  def makedirs(self, path, *, exist_ok=False, mode=None):
    self.local(path)

  mkdir = makedirs

  def rmtree(self, path):
    place = self.local(path)
    if not place.exists():
      raise FileNotFoundError(path)
    shutil.rmtree(place)
    self._tidy(place.parent)

  def remove(self, path):
    place = self.local(path)
    place.unlink()
    self._tidy(place.parent)

  def _tidy(self, folder):
    while folder != self.folder and folder.is_dir() and not os.listdir(folder):
      folder.rmdir()
      folder = folder.parent

  def rename(self, path, dst):
    raise NotImplementedError(f"objects cannot be renamed: {path}")

  replace = rename

  def copy(self, path, dst, overwrite):
    raise NotImplementedError("not used")

  def stat(self, path):
    return backend.os_backend.stat(self.local(path))


@contextlib.contextmanager
def mounted(folder):
  """gs:// is the folder within, for etils, Orbax and TensorStore.

  Yields:
    The Bucket.
  """
  os.makedirs(folder)
  bucket = Bucket(folder)

  def key_value_store(path):
    return {"driver": "file", "path": str(bucket.local(path))}

  with (
      mock.patch.dict(gpath._PREFIX_TO_BACKEND, {"gs": bucket}),
      mock.patch.object(gcs_utils, "get_kvstore_for_gcs", key_value_store),
      mock.patch.object(
          gcs_utils, "is_hierarchical_namespace_enabled", lambda path: False
      ),
  ):
    yield bucket
