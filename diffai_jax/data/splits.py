"""Which examples a split in TFDS's syntax stands for: "train[:90%]".

And how data that come in one piece are parted.
"""

from collections.abc import Mapping
import typing

import numpy as np

from diffai_jax.types import UsageError, shown

_LONGEST_SPLIT = 1000  # Characters.
_SEED = 0
_TEST_SHARE = 0.2


class Rows(typing.NamedTuple):
  """Some examples in a row.

  Attributes:
    part: the name of the part that they are of, such as "train".
    start, stop: of their numbers in it.
  """

  part: str
  start: int
  stop: int


def rows_of(name: str, split: str, sizes: Mapping[str, int]) -> list[Rows]:
  """The rows that a split has, in their order; at least one example.

  Args:
    name: of the dataset, for messages.
    split: in TFDS's syntax, such as "train", "train[:90%]", "train+test".
    sizes: how many examples each part has.

  Raises:
    UsageError: if it is no split, or one without examples.
  """
  import tensorflow_datasets as tfds

  known = ", ".join(f"{part} ({size:,})" for part, size in sizes.items())
  wrong = UsageError(
      f"{name} has no split {shown(split)}: it has {known}, and slices of them"
      f" such as train[:90%] or test[:1000]"
  )
  if not isinstance(split, str) or len(split) > _LONGEST_SPLIT:
    raise wrong
  infos = {
      part: tfds.core.SplitInfo(
          name=part, shard_lengths=[size], num_bytes=0, filename_template=None
      )
      for part, size in sizes.items()
  }
  try:
    read = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  except (ValueError, KeyError, AssertionError):  # All that TFDS raises there.
    raise wrong from None
  rows = []
  for part in read:
    start, stop, _ = slice(part.from_, part.to).indices(sizes[part.splitname])
    if start < stop:
      rows.append(Rows(part.splitname, start, stop))
  if not rows:
    raise UsageError(
        f"split {shown(split)} of {name} has no examples; it has {known}"
    )
  return rows


def held_out(labels: np.ndarray) -> dict[str, np.ndarray]:
  """The rows "train" and "test" of data in one piece, in an order by chance.

  A fifth of each class is held out, and at least one example of a class that
  has two. The same labels are always parted alike.

  Args:
    labels: [N].
  """
  order = shuffled(len(labels))
  of_test = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    rows = order[labels[order] == label]
    count = max(round(len(rows) * _TEST_SHARE), int(len(rows) > 1))
    of_test[rows[:count]] = True
  return {"train": order[~of_test[order]], "test": order[of_test[order]]}


def shuffled(count: int) -> np.ndarray:
  """Rows in an order by chance, the same for each count.

  Files lie in the order of their classes, and the first hundred of a split
  should have all of them.
  """
  return np.random.default_rng(_SEED).permutation(count)


def chosen(
    name: str, split: str, parts: Mapping[str, np.ndarray]
) -> np.ndarray:
  """What a split has of parts in memory; at least one example.

  Args:
    name: of the dataset, for messages.
    split: in TFDS's syntax.
    parts: of each part the rows, or whatever else has an entry an example.

  Raises:
    UsageError: if it is no split, or one without examples.
  """
  sizes = {part: len(rows) for part, rows in parts.items()}
  rows = rows_of(name, split, sizes)
  return np.concatenate([parts[part][a:b] for part, a, b in rows])
