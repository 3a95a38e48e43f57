"""npz:FILE, arrays of images or of rows of a table in one file of NumPy's.

  x_train, y_train and, if they are there, x_test, y_test
  images, labels   and, if they are there, test_images, test_labels

Without test arrays a fifth of each class is "test". Nothing is unpickled.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import typing
import zipfile
import zlib

import numpy as np

from diffai_jax.data.arrays import (
    Range,
    checked_images,
    checked_labels,
    float32_images,
)
from diffai_jax.data.datasets import Dataset
from diffai_jax.data.splits import chosen, held_out
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, reason, shown

_EXPECTED = (
    "expected x_train, y_train (x_test, y_test), or images, labels"
    " (test_images, test_labels)"
)
# What zipfile and NumPy raise of damaged files.
_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error,
    MemoryError, NotImplementedError, SyntaxError, OverflowError, RuntimeError,
)


class _Names(typing.NamedTuple):
  """The arrays of an archive: of training, and of test or None."""

  images: str
  labels: str
  test_images: str | None
  test_labels: str | None


_FORMS = (
    _Names("x_train", "y_train", "x_test", "y_test"),
    _Names("images", "labels", "test_images", "test_labels"),
)


def constants(path: str) -> Dataset:
  """Shape and number of classes; of images the header alone is read.

  Raises:
    UsageError: if the file cannot be used.
  """
  with _opened(path) as archive:
    names = _names(path, archive)
    labels = _labels(path, archive, names.labels)
    shape = _shape(path, archive, names.images)
  return Dataset(_example_shape(path, names.images, shape), _classes(
      path, names.labels, labels
  ))


def read(
    name: str, path: str, split: str, data_range: Range | None
) -> tuple[np.ndarray, np.ndarray]:
  """A split of an archive.

  Args:
    name: of the dataset, for messages.
    path: of the file.
    split: in TFDS's syntax, of "train" and "test".
    data_range: lowest and highest value that floats may have, or None.

  Returns:
    (images, uint8 or float32 [N, ...], where [N, H, W] become [N, H, W, 1];
    labels, int32 [N]), in the order of the arrays where a file has test arrays.

  Raises:
    UsageError: says what is wrong with the file, an array or the split.
  """
  with _opened(path) as archive:
    names = _names(path, archive)
    labels = _labels(path, archive, names.labels)
    classes = _classes(path, names.labels, labels)
    if names.test_labels is None:
      rows = chosen(name, split, held_out(labels))
      images = _images(path, archive, names.images, data_range, len(labels))
      return images[rows], labels[rows]
    theirs = _labels(path, archive, names.test_labels)
    if theirs.max() >= classes:
      raise UsageError(
          f"{names.test_labels}[{theirs.argmax()}] of {shown(path)} is"
          f" {theirs.max()}; expected from 0 to {classes - 1}, as in"
          f" {names.labels}"
      )
    count = len(labels)
    rows = chosen(name, split, {
        "train": np.arange(count), "test": count + np.arange(len(theirs)),
    })
    shape = _shape(path, archive, names.images)
    shape = _example_shape(path, names.images, shape)
    # An array that the split has nothing of need not be read.
    images = np.concatenate([
        _images(path, archive, key, data_range, size, shape)[inside - first]
        for key, first, size in (
            (names.images, 0, count), (names.test_images, count, len(theirs))
        )
        if (inside := rows[(rows >= first) & (rows < first + size)]).size
    ])
    in_order = np.argsort(np.argsort(rows >= count, kind="stable"))
    return images[in_order], np.concatenate([labels, theirs])[rows]


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
  """Makes one line of what zipfile and NumPy raise."""
  try:
    yield
  except _DAMAGED as error:
    why = getattr(error, "strerror", None) or reason(error)
    if "pickle" in str(error):
      why = "it holds Python objects, which are not read"
    raise UsageError(
        f"{shown(path)} cannot be read: {why}; {_EXPECTED}, arrays of numbers"
        f" that np.savez wrote"
    ) from None


def _opened(path: str) -> np.lib.npyio.NpzFile:
  """The archive, to be closed.

  Raises:
    UsageError: if it is none.
  """
  path = checked_path(path, "the file of the dataset")
  if not os.path.isfile(path):
    wrong = "is a folder" if os.path.isdir(path) else "does not exist"
    raise UsageError(
        f"{shown(path)} {wrong}; give the file with --config.dataset=npz:FILE"
    )
  with _reading(path):
    if zipfile.is_zipfile(path):
      return np.load(path, allow_pickle=False)
  raise UsageError(
      f"{shown(path)} is no archive of arrays; {_EXPECTED}, as np.savez writes"
      f" them"
  )


def _names(path: str, archive) -> _Names:
  """Which arrays there are."""
  for form in _FORMS:
    if form.images in archive and form.labels in archive:
      tests = [key for key in form[2:] if key in archive]
      if len(tests) == 1:
        raise UsageError(
            f"{shown(path)} has {tests[0]}, but not both of {form.test_images}"
            f" and {form.test_labels}; add the other, or leave both out"
        )
      return form if tests else _Names(form.images, form.labels, None, None)
  held = shown(sorted(archive)) if len(archive) else "none"
  raise UsageError(f"{shown(path)} has the arrays {held}; {_EXPECTED}")


def _shape(path: str, archive, key: str) -> tuple[int, ...]:
  """An array's shape, from its header where that is of a usual version."""
  with _reading(path), archive.zip.open(key + ".npy") as file:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version in readers:
      return readers[version](file)[0]
  return _array(path, archive, key).shape


def _array(path: str, archive, key: str) -> np.ndarray:
  with _reading(path):
    return archive[key]


def _example_shape(path: str, key: str, shape) -> tuple[int, ...]:
  """Of one example; an image without channels, [H, W], has one."""
  if len(shape) < 2:
    raise UsageError(
        f"{key} of {shown(path)} has the shape {list(shape)}; expected"
        f" [N, ...], such as [N, n] of a table or [N, H, W, C] of images"
    )
  return (*shape[1:], 1) if len(shape) == 3 else tuple(shape[1:])


def _labels(path: str, archive, key: str) -> np.ndarray:
  """Labels, int32 [N]; a column [N, 1] is taken as it is meant."""
  labels = _array(path, archive, key)
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  if not labels.size:
    raise UsageError(
        f"{key} of {shown(path)} is empty; expected a label or more"
    )
  try:
    return checked_labels(labels, len(labels), name=key)
  except UsageError as error:
    raise UsageError(f"{shown(path)}: {error}") from None


def _classes(path: str, key: str, labels: np.ndarray) -> int:
  """The number of classes, each of which has an example."""
  used = np.unique(labels)
  missing = np.flatnonzero(used != np.arange(len(used)))
  if missing.size or len(used) < 2:
    empty = missing[0] if missing.size else 1
    raise UsageError(
        f"{shown(path)}: {key} go up to {used[-1]}, but none is {empty};"
        f" expected two classes or more, 0 to K-1, each with an example"
    )
  return len(used)


def _images(
    path: str, archive, key: str, data_range: Range | None, count: int,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
  """Checked images, uint8 or float32, as many as there are labels."""
  images = _array(path, archive, key)
  name = f"{key} of {shown(path)}"
  if len(images.shape) == 3:
    images = images[..., None]
  if shape is not None and images.shape[1:] != shape:
    raise UsageError(
        f"{name} has examples {list(images.shape[1:])}, but the training ones"
        f" are {list(shape)}; expected one shape"
    )
  try:
    images = float32_images(checked_images(images, data_range, name=key), key)
  except UsageError as error:  # Which speaks of arguments of Python's.
    text = re.sub(
        r"data_range=\(([\w.]+), ([\w.]+)\)", r"--config.data_range=\1,\2",
        str(error),
    )
    raise UsageError(f"{shown(path)}: {text}") from None
  if len(images) != count:
    raise UsageError(
        f"{name} has {len(images)} examples, but there are {count} labels;"
        f" expected one for each"
    )
  return images
