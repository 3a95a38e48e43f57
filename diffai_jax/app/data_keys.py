"""What the keys of a config that are about data stand for."""

from collections.abc import Iterable
import dataclasses

from diffai_jax.app import config_dict
from diffai_jax.app.config import parse_number
from diffai_jax.data import Dataset, Examples, dataset, statistics
from diffai_jax.data.arrays import Range, checked_range
from diffai_jax.types import UsageError, shown

_NOTHING = ("none", "null", "")
_LARGEST, _SMALLEST = 1e38, 1e-30  # In float32.
_MOST_TOLD = 8  # Channels whose mean and deviation fit into a line of advice.


def range_of(config: config_dict.ConfigDict) -> Range | None:
  """The lowest and highest value of floats; None where there is no range.

  Raises:
    UsageError: if data_range is neither two numbers nor "none".
  """
  given = config.data_range
  values = _listed(given)
  if all(v is None or str(v).strip().lower() in _NOTHING for v in values):
    return None
  try:
    return checked_range(tuple(_number(v, "data_range") for v in values))
  except UsageError:
    raise UsageError(
        f"data_range is {shown(given)}; expected the lowest and the highest"
        f" value of data, such as 0,1, or none; set it with"
        f" --config.data_range="
    ) from None


def dataset_of(config: config_dict.ConfigDict) -> Dataset:
  """The dataset with what the config says of it: mean, deviation, augmentation.

  Of a user's own data the files are looked into, for the shape of an example
  and the number of classes.

  Raises:
    UsageError: if there is none of that name, it cannot be read, or what the
      config says does not fit it.
  """
  found = dataset(config.dataset, config.data_dir)
  chosen = {k: v for k, v in config.augment.items() if v is not None}
  if any(chosen.values()) and len(found.image_shape) != 3:
    key = next(key for key, value in chosen.items() if value)
    raise UsageError(
        f"augment.{key} is {shown(chosen[key])}, but an example of"
        f" {config.dataset} has the shape {list(found.image_shape)}; only"
        f" images [H, W, C] are cropped and flipped; leave --config.augment.{key}= out"
    )
  for key in ("mean", "std"):
    numbers = _statistic(config, key, found.image_shape)
    if numbers is not None:
      chosen[key] = numbers
  return dataclasses.replace(found, **chosen)


def advice(data: Dataset, name: str, examples: Examples) -> str | None:
  """A line about a mean and deviation that nobody has given, or None.

  They are not computed in silence: a network is what its config says, and does
  not change with a file that is added.

  Args:
    data: what the config makes of the dataset.
    name: of the dataset.
    examples: those of training.
  """
  missing = [key for key in ("mean", "std") if getattr(data, key) is None]
  if not missing:
    return None
  mean, std = statistics(examples.images)
  if len(mean) > _MOST_TOLD:
    mean, std = statistics(examples.images, by_channel=False)
  computed = {"mean": mean, "std": std}
  flags = " ".join(
      f"--config.{key}={','.join(f'{x:.4g}' for x in computed[key])}"
      for key in missing
  )
  used = " and ".join({"mean": "mean 0", "std": "std 1"}[m] for m in missing)
  return (
      f"inputs are normalised with {used}, as {name} has none of its own; those"
      f" of its training data are {flags}"
  )


def _statistic(config, key: str, shape) -> tuple[float, ...] | None:
  """The numbers of `mean` or `std`, one a channel or one for all, or None."""
  given = config[key]
  if given is None:
    return None
  try:
    numbers = tuple(_number(value, key) for value in _listed(given))
  except UsageError:
    numbers = ()
  channels = shape[-1]
  if len(numbers) not in (1, channels) or (
      key == "std" and min(numbers) < _SMALLEST
  ):
    what = "numbers above 0" if key == "std" else "numbers"
    raise UsageError(
        f"{key} is {shown(given)}; expected {what}, one for all or one for each"
        f" of {channels} channels, such as 0.5; set it with --config.{key}="
    )
  return numbers * (channels // len(numbers))


def _listed(given) -> list:
  if isinstance(given, str):
    return [word.strip() for word in given.strip("()[] ").split(",")]
  return list(given) if isinstance(given, Iterable) else [given]


def _number(value, key: str) -> float:
  """A number that float32 can hold, or the text of one.

  Raises:
    UsageError: if it is none.
  """
  if isinstance(value, str):
    value = parse_number(value, key)
  is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
  if not is_number or not -_LARGEST <= value <= _LARGEST:
    raise UsageError(f"{key} has {shown(value)}; expected a number")
  return float(value)
