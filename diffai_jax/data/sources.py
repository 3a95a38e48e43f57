"""Reading datasets: prepared TFDS folders, and the digits that need none."""

import contextlib
import dataclasses
import os

import numpy as np

from diffai_jax.data.datasets import dataset
from diffai_jax.types import UsageError, shown

_DIGITS_SEED = 0
_DIGITS_TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Examples:
  """Images and labels on the host.

  Attributes:
    images: uint8, [N, H, W, C].
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

  Raises:
    UsageError: if the dataset or split does not exist or is not prepared.
  """
  dataset(name)  # Raises on unknown names.
  if name == "digits":
    return _digits(split)
  return _from_tfds(name, split, data_dir)


def _digits(split: str) -> Examples:
  """scikit-learn's 1,797 digits of 8×8, a fifth of them (360) held out."""
  from sklearn import datasets, model_selection
  import tensorflow_datasets as tfds

  images, labels = datasets.load_digits(return_X_y=True)
  images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
  labels = labels.astype(np.int32)
  train, test = model_selection.train_test_split(
      np.arange(len(labels)),
      test_size=_DIGITS_TEST_SHARE,
      random_state=_DIGITS_SEED,
      stratify=labels,
  )
  rows = {"train": train, "test": test}
  infos = {
      part: tfds.core.SplitInfo(
          name=part,
          shard_lengths=[len(index)],
          num_bytes=0,
          filename_template=None,
      )
      for part, index in rows.items()
  }
  with _split_errors("digits", split):
    instructions = tfds.core.ReadInstruction.from_spec(split)
    chosen = np.concatenate([
        rows[part.splitname][part.from_ : part.to]
        for part in instructions.to_absolute(infos)
    ])
  return _checked(Examples(images[chosen], labels[chosen]), "digits", split)


def _from_tfds(name: str, split: str, data_dir: str) -> Examples:
  import tensorflow_datasets as tfds

  folder = os.path.expanduser(data_dir) if data_dir else None
  builder_kwargs = {"file_format": "array_record"}
  try:
    builder = tfds.builder(name, data_dir=folder, **builder_kwargs)
    prepared = builder.is_prepared()
  except Exception:  # TFDS raises many kinds on a folder it cannot use.
    prepared = False
  if not prepared:
    raise _not_prepared(name, data_dir)
  with _split_errors(name, split):
    if not builder.info.splits[split].num_examples:
      return _checked(Examples(np.empty(0), np.empty(0)), name, split)
    source = tfds.data_source(
        name,
        split=split,
        data_dir=folder,
        download=False,
        builder_kwargs=builder_kwargs,
    )
  records = source.__getitems__(range(len(source))) if len(source) else []
  shape = dataset(name).image_shape
  images = np.empty((len(records), *shape), np.uint8)
  labels = np.empty(len(records), np.int32)
  for row, record in enumerate(records):
    images[row] = record["image"]
    labels[row] = record["label"]
  return _checked(Examples(images, labels), name, split)


def _not_prepared(name: str, data_dir: str) -> UsageError:
  place = data_dir or os.path.join("~", "tensorflow_datasets")
  argument = f", data_dir={data_dir!r}" if data_dir else ""
  return UsageError(
      f"{name} is not prepared in data_dir={place} (no array_record files"
      f" there); give the folder that has it with --config.data_dir=FOLDER, or"
      f" prepare it once with the command below",
      "pip install tensorflow && python -c \"import tensorflow_datasets as"
      f" tfds; tfds.builder('{name}'{argument},"
      " file_format='array_record').download_and_prepare()\"",
  )


@contextlib.contextmanager
def _split_errors(name: str, split: str):
  """TFDS's own errors about a split, as one line."""
  try:
    yield
  except (ValueError, KeyError, AssertionError) as error:
    reason = str(error).strip().splitlines()[0]
    raise UsageError(f"{name} has no split {shown(split)}: {reason}") from None


def _checked(examples: Examples, name: str, split: str) -> Examples:
  if not len(examples):
    raise UsageError(f"split {shown(split)} of {name} has no examples")
  return examples
