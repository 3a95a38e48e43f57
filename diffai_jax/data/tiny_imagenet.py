"""Tiny ImageNet, from the folder that its authors pack.

  tiny-imagenet-200/wnids.txt
  tiny-imagenet-200/train/WNID/images/*.JPEG
  tiny-imagenet-200/val/images/*.JPEG and val/val_annotations.txt

Its own test images have no labels; "test" is "val", as everywhere. Classes are
numbered in the order of their sorted WNIDs.
"""

from collections.abc import Sequence
import os

import numpy as np

from diffai_jax.data import pictures
from diffai_jax.data.datasets import DATASETS
from diffai_jax.data.places import listed
from diffai_jax.data.splits import chosen, shuffled
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, on_one_line, shown

_FOLDER = "tiny-imagenet-200"
_ADVICE = (
    f"give the folder {_FOLDER} as its authors pack it:"
    f" --config.dataset=tiny_imagenet:PATH"
)


def read(
    name: str, path: str, split: str
) -> tuple[np.ndarray, np.ndarray]:
  """A split of Tiny ImageNet.

  Args:
    name: of the dataset, for messages.
    path: the folder, or the one that it lies in.
    split: in TFDS's syntax, of "train" (100,000) and "test" (10,000).

  Returns:
    (images, uint8 [N, 64, 64, 3]; labels, int32 [N]). Gray images, of which
    there are some, have three equal channels.

  Raises:
    UsageError: if something is missing or cannot be read.
  """
  if not path:
    raise UsageError(f"{name} needs its folder; {_ADVICE}")
  root = checked_path(path, "the folder of the dataset")
  if os.path.isdir(os.path.join(root, _FOLDER)):
    root = os.path.join(root, _FOLDER)
  listed(root, _ADVICE)
  wnids = sorted(_lines(os.path.join(root, "wnids.txt")))
  if len(set(wnids)) != DATASETS["tiny_imagenet"].num_classes:
    raise UsageError(
        f"{shown(os.path.join(root, 'wnids.txt'))} names {len(set(wnids))}"
        f" classes; expected {DATASETS['tiny_imagenet'].num_classes};"
        f" {_ADVICE}, or other images as folder:PATH"
    )
  numbers = {wnid: number for number, wnid in enumerate(wnids)}
  paths, labels = _training(root, wnids)
  more, theirs = _validation(root, numbers)
  parts = {
      "train": shuffled(len(paths)),
      "test": len(paths) + np.arange(len(more)),
  }
  rows = chosen(name, split, parts)
  paths += more
  images = pictures.read(
      [paths[row] for row in rows], DATASETS["tiny_imagenet"].image_shape,
      "Tiny ImageNet's", "RGB",
  )
  return images, np.asarray(labels + theirs, np.int32)[rows]


def _training(
    root: str, wnids: Sequence[str]
) -> tuple[list[str], list[int]]:
  paths, labels = [], []
  for number, wnid in enumerate(wnids):
    folder = os.path.join(root, "train", wnid, "images")
    files = list(filter(pictures.is_picture, listed(folder, _ADVICE)))
    if not files:
      raise UsageError(f"{shown(folder)} has no images; {_ADVICE}")
    paths += [os.path.join(folder, file) for file in files]
    labels += [number] * len(files)
  return paths, labels


def _validation(
    root: str, numbers: dict[str, int]
) -> tuple[list[str], list[int]]:
  """In the order of the annotations: file, WNID, a box, with tabs between."""
  annotations = os.path.join(root, "val", "val_annotations.txt")
  paths, labels = [], []
  for line in _lines(annotations):
    file, _, rest = line.partition("\t")
    wnid = rest.partition("\t")[0].strip()
    if wnid not in numbers:
      raise UsageError(
          f"{shown(annotations)} has the line {shown(line)}; expected an image,"
          f" a tab and one of wnids.txt; {_ADVICE}"
      )
    paths.append(os.path.join(root, "val", "images", file))
    labels.append(numbers[wnid])
  return paths, labels


def _lines(path: str) -> list[str]:
  """The lines of a file that are not empty."""
  try:
    with open(path, encoding="utf-8") as file:
      return [line.strip() for line in file if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, "strerror", None) or on_one_line(str(error))
    raise UsageError(
        f"{shown(path)} cannot be read: {why}; {_ADVICE}"
    ) from None
