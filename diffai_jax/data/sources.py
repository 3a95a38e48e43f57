"""Reading a dataset by its name, wherever it lies; digits lie nowhere."""

import dataclasses

import numpy as np

from diffai_jax.data import archives, folders, prepared, tiny_imagenet
from diffai_jax.data.arrays import Range
from diffai_jax.data.datasets import Dataset, known, source_of
from diffai_jax.data.splits import chosen
from diffai_jax.types import UsageError, shown

_DIGITS_SEED = 0
_DIGITS_TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Examples:
  """Images and labels on the host.

  Attributes:
    images: [N, ...]: uint8 pixels, or floats in the range of the data.
    labels: int32, [N].
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)


def dataset(name: str, data_dir: str = "") -> Dataset:
  """The constants of a dataset; of a user's own those that its files tell.

  Raises:
    UsageError: if the name is none, or files that are needed cannot be read.
  """
  constants = known(name)
  if constants is not None:
    return constants
  kind, place = source_of(name)
  if kind == "folder":
    return folders.constants(place)
  if kind == "npz":
    return archives.constants(place)
  return prepared.constants(place, data_dir)


def load(
    name: str, split: str, data_dir: str = "",
    data_range: Range | None = (0.0, 1.0),
) -> Examples:
  """Reads a part of a dataset into memory.

  Args:
    name: a key of DATASETS, or "folder:PATH", "npz:FILE", "tfds:NAME",
      "tiny_imagenet:PATH".
    split: in TFDS's syntax: "train", "test", "train[:90%]", "train[55000:]".
    data_dir: folder of prepared TFDS datasets, or of Tiny ImageNet where the
      name has none; "" is TFDS's own, ~/tensorflow_datasets.
    data_range: lowest and highest value that floats may have, or None.

  Returns:
    At least one example.

  Raises:
    UsageError: if the dataset or split does not exist, is not prepared, or
      its files are damaged, or are bytes where the range is not (0, 1).
  """
  kind, place = source_of(name)
  if kind == "npz":
    return Examples(*archives.read(name, place, split, data_range))
  if data_range not in ((0.0, 1.0), None):
    raise UsageError(
        f"data_range is {shown(data_range)}, but the images of {name} are"
        f" bytes, which are read as floats in [0, 1]; leave it out"
    )
  if kind == "digits":
    return _digits(split)
  if kind == "folder":
    return Examples(*folders.read(name, place, split))
  if kind == "tiny_imagenet":
    return Examples(*tiny_imagenet.read(name, place or data_dir, split))
  return Examples(*prepared.read(name, split, data_dir))


def _digits(split: str) -> Examples:
  """scikit-learn's 1,797 digits of 8×8, a fifth of them (360) held out."""
  try:
    from sklearn import datasets, model_selection
  except ImportError:
    raise UsageError(
        "digits comes with scikit-learn, which cannot be imported; pip install"
        " scikit-learn"
    ) from None

  images, labels = datasets.load_digits(return_X_y=True)
  images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  labels = labels.astype(np.int32)
  train, test = model_selection.train_test_split(
      np.arange(len(labels)),
      test_size=_DIGITS_TEST_SHARE,
      random_state=_DIGITS_SEED,
      stratify=labels,
  )
  rows = chosen("digits", split, {"train": train, "test": test})
  return Examples(images[rows], labels[rows])
