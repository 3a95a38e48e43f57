"""folder:PATH, an image folder a class: PATH/CLASS/*.png, *.jpg, ...

Classes are numbered in the order of their sorted names. PATH/train and
PATH/test (or val) are its parts if both are there; otherwise a fifth of each
class is "test".
"""

from collections.abc import Sequence
import dataclasses
import os

import numpy as np

from diffai_jax.data import pictures
from diffai_jax.data.datasets import Dataset
from diffai_jax.data.places import listed
from diffai_jax.data.splits import chosen, held_out, shuffled
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, shown

_TESTS = ("test", "val", "valid", "validation")
_FORM = "expected PATH/CLASS/*.png in --config.dataset=folder:PATH"


@dataclasses.dataclass(frozen=True)
class _Files:
  """The images of a folder.

  Attributes:
    classes: their names.
    paths, labels: of all images.
    parts: the numbers of the images in each part.
  """

  classes: Sequence[str]
  paths: Sequence[str]
  labels: np.ndarray
  parts: dict[str, np.ndarray]


def constants(path: str) -> Dataset:
  """Shape and number of classes of an image folder.

  Raises:
    UsageError: if it is none.
  """
  files = _found(path)
  return Dataset(pictures.shape_of(files.paths[0]), len(files.classes))


def read(name: str, path: str, split: str) -> tuple[np.ndarray, np.ndarray]:
  """A split of an image folder.

  Returns:
    (images, uint8 [N, H, W, C]; labels, int32 [N]).

  Raises:
    UsageError: if it is none, has no such split, or an image cannot be read.
  """
  files = _found(path)
  rows = chosen(name, split, files.parts)
  first = files.paths[0]
  images = pictures.read(
      [files.paths[row] for row in rows], pictures.shape_of(first), shown(first)
  )
  return images, files.labels[rows]


def _found(path: str) -> _Files:
  """The images of a folder and what is what; their files are not opened."""
  path = checked_path(path, "the folder of the dataset")
  inside = _folders(path)
  tests = [name for name in _TESTS if name in inside]
  if "train" in inside and tests:
    train = _classes(os.path.join(path, "train"))
    paths, labels = _files_of(train)
    parts = {"train": shuffled(len(paths))}
    for name in tests:
      part = _classes(os.path.join(path, name), least=1)
      strange = sorted(set(part) - set(train))
      if strange:
        raise UsageError(
            f"{shown(os.path.join(path, name))} has the class"
            f" {shown(strange[0])}, which {shown(os.path.join(path, 'train'))}"
            f" does not have; expected the same classes in both"
        )
      more, theirs = _files_of(part, list(train))
      first = len(paths)
      key = name if "test" in tests else "test"
      parts.setdefault(key, first + shuffled(len(more)))
      paths, labels = paths + more, np.concatenate([labels, theirs])
    return _Files(list(train), paths, labels, parts)
  if inside == ["train"] and _folders(os.path.join(path, "train")):
    path = os.path.join(path, "train")
  classes = _classes(path)
  paths, labels = _files_of(classes)
  return _Files(list(classes), paths, labels, held_out(labels))


def _folders(path: str) -> list[str]:
  """The folders in a folder."""
  names = listed(path, _FORM)
  return [name for name in names if os.path.isdir(os.path.join(path, name))]


def _classes(path: str, least: int = 2) -> dict[str, list[str]]:
  """The paths of each class's images, of `least` classes or more."""
  names = _folders(path)
  if not names:
    loose = len(list(filter(pictures.is_picture, listed(path, _FORM))))
    raise UsageError(
        f"{shown(path)} has no folder a class (and {loose} images beside);"
        f" {_FORM}"
    )
  if len(names) < least:
    raise UsageError(
        f"{shown(path)} has one class alone, {shown(names[0])}; expected two"
        f" folders of images or more"
    )
  found = {}
  for name in names:
    folder = os.path.join(path, name)
    files = list(filter(pictures.is_picture, listed(folder, _FORM)))
    if not files:
      raise UsageError(
          f"the class {shown(folder)} has no images; expected files such as"
          f" *{pictures.ENDINGS[5]} or *{pictures.ENDINGS[2]} in it; add some,"
          f" or remove the folder"
      )
    found[name] = [os.path.join(folder, file) for file in files]
  return found


def _files_of(
    classes: dict[str, list[str]], order: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray]:
  """All paths, and the number of each one's class in `order`."""
  order = list(classes) if order is None else order
  paths = [path for files in classes.values() for path in files]
  counts = [len(files) for files in classes.values()]
  numbers = np.asarray([order.index(name) for name in classes], np.int32)
  return paths, np.repeat(numbers, counts)
