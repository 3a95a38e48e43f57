"""Which examples a split in TFDS's syntax stands for: "train[:90%]"."""

from collections.abc import Mapping
import typing

from diffai_jax.types import UsageError, shown

_LONGEST_SPLIT = 1000  # Characters.


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
