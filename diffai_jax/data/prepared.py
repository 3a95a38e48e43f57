"""Datasets that TFDS has prepared: found and read, or a line that says why not.

Of a folder that it cannot use TFDS raises long errors of several types, so the
folder is looked at first.
"""

import os
import re
import zlib

import numpy as np

from diffai_jax.data.datasets import dataset
from diffai_jax.data.splits import rows_of
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, on_one_line, shortened, shown

_INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_PATTERN = re.compile(r"[][*?\\]")  # TFDS reads a path as a pattern.
_BLOCK = 4096  # Records that are decoded before they are copied.
# What readers of damaged files raise: TFDS, array_record, PIL, NumPy.
_DAMAGED = (
    RuntimeError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, SyntaxError, EOFError, OSError, zlib.error, MemoryError,
)


def read(name: str, split: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
  """A split of a prepared dataset.

  Args:
    name: a key of DATASETS that TFDS has.
    split: in TFDS's syntax.
    data_dir: the folder that holds the dataset's; "" is TFDS's own.

  Returns:
    (images, uint8 [N, H, W, C]; labels, int32 [N]).

  Raises:
    UsageError: says what is wrong with the folder, the split or the files.
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
  version = str(tfds.builder_cls(name).VERSION)
  place = _find(name, version, folder)
  builder = _builder(tfds, name, folder, place)
  sizes = {
      part: info.num_examples for part, info in builder.info.splits.items()
  }
  rows = rows_of(name, split, sizes)
  sources, images, labels = {}, [], []
  for part, start, stop in rows:
    try:
      if part not in sources:
        sources[part] = builder.as_data_source(split=part)
      for first in range(start, stop, _BLOCK):
        records = sources[part].__getitems__(
            range(first, min(first + _BLOCK, stop))
        )
        images.append(np.stack([record["image"] for record in records]))
        labels.append(np.asarray([record["label"] for record in records]))
    except _DAMAGED as error:
      raise _damaged(name, place, f"the files of {part}", error) from None
  return _checked(name, place, np.concatenate(images), np.concatenate(labels))


def _checked(name, place, images, labels) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels, which must be as `dataset` has them."""
  known = dataset(name)
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


def _entries(folder: str) -> list[str] | str:
  """What a folder holds, or why it cannot be looked into."""
  try:
    return sorted(os.listdir(folder))
  except FileNotFoundError:
    return "does not exist"
  except NotADirectoryError:
    return "is not a folder"
  except PermissionError:
    return "may not be read by you"
  except OSError as error:
    return f"cannot be read ({error.strerror})"


def _versions(folder: str) -> list[str]:
  """The dataset's versions in this folder; [] if it is no dataset's own."""
  entries = _entries(folder)
  return [
      entry for entry in entries if _VERSION.fullmatch(entry)
  ] if isinstance(entries, list) else []


def _find(name: str, version: str, folder: str) -> str:
  """The folder of that version's files.

  Raises:
    UsageError: if they are not there; says what is.
  """
  entries = _entries(folder)
  if isinstance(entries, str):
    raise _not_there(
        name, folder, f"data_dir is {shown(folder)}, which {entries}",
        entries == "does not exist",
    )
  if name not in entries:
    above, own = os.path.split(os.path.abspath(folder))
    if _INFO in entries:
      above, own = os.path.split(above)
    if own == name and (_INFO in entries or _versions(folder)):
      raise UsageError(
          f"data_dir is {shown(folder)}, the folder of {name} itself; give the"
          f" one that it is in: --config.data_dir={above}"
      )
    others = [e for e in entries if _versions(os.path.join(folder, e))]
    held = f"it has {shown(others)}" if others else "it has no dataset"
    raise _not_there(
        name, folder, f"{name} is not in data_dir={shown(folder)}: {held}"
    )
  inside = os.path.join(folder, name)
  versions = _entries(inside)
  if isinstance(versions, str):
    raise _not_there(name, folder, f"{inside} {versions}", False)
  if version not in versions:
    held = ", ".join(_versions(inside)) or "no version"
    raise _not_there(
        name, folder, f"{inside} holds {shortened(held)}, but TFDS reads"
        f" version {version}",
    )
  place = os.path.join(inside, version)
  files = _entries(place)
  if isinstance(files, str):
    raise _not_there(name, folder, f"{place} {files}", False)
  if not any(".array_record" in file for file in files):
    held = [kind for kind in ("tfrecord", "riegeli", "parquet")
            if any(f".{kind}" in file for file in files)]
    raise _not_there(
        name, folder, f"{place} holds {held[0] if held else 'no data'} files;"
        f" expected array_record ones",
    )
  if _INFO not in files:
    raise _not_there(
        name, folder, f"{place} has no {_INFO}: preparing it did not end"
    )
  return place


def _not_there(
    name: str, folder: str, what: str, may_prepare: bool = True
) -> UsageError:
  """The error, with the command that prepares the dataset where one can be."""
  advice = "give the folder that has it with --config.data_dir=FOLDER"
  if not may_prepare:
    return UsageError(f"{what}; {advice}")
  return UsageError(
      f"{what}; {advice}, or prepare it once with the command below",
      "pip install tensorflow && python -c \"import tensorflow_datasets as"
      f" tfds; tfds.builder('{name}', data_dir={folder!r},"
      " file_format='array_record').download_and_prepare()\"",
  )


def _builder(tfds, name: str, folder: str, place: str):
  """TFDS's reader of the files in `place`."""
  from google.protobuf import json_format

  try:
    if _PATTERN.search(folder):
      return tfds.builder_from_directory(place, file_format="array_record")
    return tfds.builder(name, data_dir=folder, file_format="array_record")
  except (*_DAMAGED, json_format.Error) as error:
    raise _damaged(name, place, _INFO, error) from None


def _damaged(name: str, place: str, what: str, error: Exception) -> UsageError:
  reason = shortened(on_one_line(str(error)) or type(error).__name__)
  return UsageError(
      f"{what} in {place} cannot be read: {reason}; fetch {name} again into"
      f" an empty folder and give that with --config.data_dir=FOLDER"
  )
