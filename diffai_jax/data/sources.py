"""Reading datasets: prepared TFDS folders, and the digits that need none."""

import dataclasses

import numpy as np

from diffai_jax.data import prepared
from diffai_jax.data.datasets import dataset
from diffai_jax.data.splits import rows_of
from diffai_jax.types import UsageError

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


def load(name: str, split: str, data_dir: str = "") -> Examples:
  """Reads a part of a dataset into memory.

  Args:
    name: a key of DATASETS.
    split: in TFDS's syntax: "train", "test", "train[:90%]", "train[55000:]".
    data_dir: folder of prepared TFDS datasets; "" is TFDS's own,
      ~/tensorflow_datasets. `digits` comes with scikit-learn and needs none.

  Returns:
    At least one example.

  Raises:
    UsageError: if the dataset or split does not exist, is not prepared, or
      its files are damaged.
  """
  dataset(name)  # Raises on unknown names.
  if name == "digits":
    return _digits(split)
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
  numbers = {"train": train, "test": test}
  rows = rows_of("digits", split, {k: len(v) for k, v in numbers.items()})
  chosen = np.concatenate([numbers[part][a:b] for part, a, b in rows])
  return Examples(images[chosen], labels[chosen])
