"""Datasets that TFDS has prepared: read, or a line that says why not."""

import os
import re
import typing
import zlib

import numpy as np

from diffai_jax.data import tfds_folders
from diffai_jax.data.datasets import DATASETS, Dataset
from diffai_jax.data.splits import rows_of
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, on_one_line, shortened, shown

_NAME = re.compile(
    r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?"
)
_PATTERN = re.compile(r"[][*?\\]")  # TFDS reads a path as a pattern.
_BLOCK = 4096  # Records that are decoded before they are copied.
# What readers of damaged files raise: TFDS, array_record, PIL, NumPy.
_DAMAGED = (
    RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, SyntaxError, EOFError, OSError, zlib.error, MemoryError,
)


class _Opened(typing.NamedTuple):
  """A prepared dataset: its folder, TFDS's reader, what its records hold."""

  place: str
  builder: typing.Any
  image: str
  label: str
  constants: Dataset


def constants(name: str, data_dir: str) -> Dataset:
  """Shape and number of classes, as TFDS has written them down.

  Args:
    name: that of TFDS, "NAME", "NAME/CONFIG", "NAME:VERSION".
    data_dir: the folder that holds the dataset's; "" is TFDS's own.

  Raises:
    UsageError: says what is wrong with the folder, or that the dataset is not
      one of images of one size with a label each.
  """
  return _opened(name, data_dir).constants


def read(name: str, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
  """A split of a prepared dataset.

  Args:
    name: a key of DATASETS that TFDS has; its constants are ours, and its
      version is the one that TFDS reads. Or "tfds:" and any name of TFDS's: these
      are the folder's then.
    split: in TFDS's syntax.
    data_dir: the folder that holds the dataset's; "" is TFDS's own.

  Returns:
    (images, uint8 [N, H, W, C]; labels, int32 [N]).

  Raises:
    UsageError: says what is wrong with the folder, the split or the files.
  """
  opened = _opened(name.removeprefix("tfds:"), data_dir, DATASETS.get(name))
  place = opened.place
  sizes = {
      part: info.num_examples
      for part, info in opened.builder.info.splits.items()
  }
  rows = rows_of(name, split, sizes)
  sources, images, labels = {}, [], []
  for part, start, stop in rows:
    try:
      if part not in sources:
        sources[part] = opened.builder.as_data_source(split=part)
      for first in range(start, stop, _BLOCK):
        records = sources[part].__getitems__(
            range(first, min(first + _BLOCK, stop))
        )
        images.append(np.stack([record[opened.image] for record in records]))
        labels.append(np.asarray([record[opened.label] for record in records]))
    except _DAMAGED as error:
      raise _damaged(name, place, f"the files of {part}", error) from None
  return _checked(
      name, place, opened.constants, np.concatenate(images),
      np.concatenate(labels),
  )


def _opened(
    name: str, data_dir: str, known: Dataset | None = None
) -> _Opened:
  """Finds a dataset and its reader.

  Args:
    name: that of TFDS.
    data_dir: as `read` has it.
    known: its constants; None is those that the folder tells.
  """
  try:
    import PIL.Image
    import array_record.python.array_record_module
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise UsageError(
        f"reading {name} takes a package that cannot be imported"
        f" ({error.name}); pip install tensorflow-datasets array_record pillow"
    ) from None
  del array_record, PIL
  if data_dir:
    folder = checked_path(data_dir, "data_dir")
  else:
    folder = os.path.expanduser(tfds.core.constants.DATA_DIR)
  if known:
    version = str(tfds.builder_cls(name).VERSION)
    place = tfds_folders.find(name, version, folder)
    builder = _builder(tfds, name, folder, place)
    return _Opened(place, builder, "image", "label", known)
  match = _NAME.fullmatch(name)
  if match is None:
    raise UsageError(
        f"dataset is {shown(f'tfds:{name}')}; expected a name of TFDS, such as"
        f" tfds:stl10, tfds:NAME/CONFIG or tfds:NAME:1.0.0"
    )
  place = tfds_folders.find(
      match["name"], match["version"], folder, match["config"], name
  )
  builder = _builder(tfds, name, folder, place, of_folder=True)
  return _Opened(place, builder, *_contents(tfds, name, place, builder))


def _contents(tfds, name: str, place: str, builder):
  """The keys of image and label in each record, and the dataset's constants."""
  features = builder.info.features
  features = features if hasattr(features, "items") else {}
  kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
  keys = {}
  for usual, kind in kinds.items():
    found = [key for key, feature in features.items()
             if type(feature) is kind]
    if usual in found:
      found = [usual]
    if len(found) != 1:
      raise UsageError(
          f"{place} holds records of {shown(sorted(features))}; expected one"
          f" image and one label of a class in each; give what is wanted of"
          f" {name} as folder:PATH or npz:FILE"
      )
    keys[usual] = found[0]
  shape = features[keys["image"]].shape
  classes = features[keys["label"]].num_classes
  dtype = features[keys["image"]].np_dtype
  if None in shape or not classes or dtype != np.uint8:
    sizes = [size or "any" for size in shape]
    raise UsageError(
        f"{place} holds images {shown(sizes)} of {np.dtype(dtype)} and"
        f" {classes or 'any'} classes; expected one size and 8 bits; give them"
        f" resized as folder:PATH or npz:FILE"
    )
  return keys["image"], keys["label"], Dataset(tuple(shape), classes)


def _checked(
    name: str, place: str, known: Dataset, images: np.ndarray,
    labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels, which must be as the constants have them."""
  if images.dtype != np.uint8 or images.shape[1:] != known.image_shape:
    raise UsageError(
        f"{place} holds images {list(images.shape[1:])} of {images.dtype};"
        f" those of {name} are {list(known.image_shape)} of uint8; give another"
        f" folder with --config.data_dir=FOLDER"
    )
  wrong = (labels < 0) | (labels >= known.num_classes)
  if labels.dtype.kind not in "iu" or wrong.any():
    found = shown(labels[wrong][0].item() if wrong.any() else labels.dtype.name)
    raise UsageError(
        f"{place} holds the label {found}; those of {name} are whole numbers"
        f" from 0 to {known.num_classes - 1}; give another folder with"
        f" --config.data_dir=FOLDER"
    )
  return images, labels.astype(np.int32)


def _builder(
    tfds, name: str, folder: str, place: str, of_folder: bool = False
):
  """TFDS's reader of the files in `place`; of the folder alone if asked so."""
  from google.protobuf import json_format

  try:
    if of_folder or _PATTERN.search(folder):
      return tfds.builder_from_directory(place, file_format="array_record")
    return tfds.builder(name, data_dir=folder, file_format="array_record")
  except (*_DAMAGED, json_format.Error) as error:
    raise _damaged(name, place, tfds_folders.INFO, error) from None


def _damaged(name: str, place: str, what: str, error: Exception) -> UsageError:
  reason = shortened(on_one_line(str(error)) or type(error).__name__)
  return UsageError(
      f"{what} in {place} cannot be read: {reason}; fetch {name} again into"
      f" an empty folder and give that with --config.data_dir=FOLDER"
  )
