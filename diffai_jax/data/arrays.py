"""Images and labels that a caller gives as arrays: what they must be.

Nothing is guessed and nothing is divided in silence: bytes are pixels of 0 to
255 and become floats in [0, 1]; every other number stands for itself and must lie
within the stated range.
"""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffai_jax.types import ArgumentError, shown

Range = tuple[float, float]
_BLOCK = 1024  # Examples.


def checked_range(data_range: Any) -> Range | None:
  """The lowest and highest value that data can have, or None for no range.

  Raises:
    ArgumentError: if it is no pair of finite numbers, the lower one first.
  """
  if data_range is None:
    return None
  try:
    low, high = (float(bound + 0) for bound in data_range)  # No text.
  except (TypeError, ValueError, OverflowError):
    low = high = math.nan
  if not (low < high and math.isfinite(low) and math.isfinite(high)):
    raise ArgumentError(
        f"data_range is {shown(data_range)}; expected (lowest, highest), such as"
        f" (0, 1), or None for data without a range"
    )
  return low, high


def checked_images(
    images: Any,
    data_range: Range | None = (0.0, 1.0),
    *,
    name: str = "images",
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
  """Images as an array of the host, uint8 or of a floating-point type.

  Args:
    images: NumPy's, JAX's or nested lists, [N, ...] with N ≥ 1: uint8, which
      means pixels of 0 to 255, or floats.
    data_range: lowest and highest value that they may have, or None. uint8
      images are data in [0, 1].
    name: what messages call them.
    shape: of one image, where it is known.

  Returns:
    The same numbers, [N, ...], in the type that they came in.

  Raises:
    ArgumentError: if they are of another type, rank or shape, there are none, or a
      value is not finite or outside of the range.
  """
  data_range = checked_range(data_range)
  array = _array(images, name)
  if array.dtype != np.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
    raise ArgumentError(
        f"{name} are of type {array.dtype}; expected floats, or uint8 for pixels"
        f" of 0 to 255; convert them with .astype"
    )
  if array.ndim < 2:
    raise ArgumentError(
        f"{name} have the shape {list(array.shape)}; expected [N, ...], one"
        f" image an entry of the first axis; a single image is images[None]"
    )
  if shape is not None and array.shape[1:] != tuple(shape):
    raise ArgumentError(
        f"{name} have the shape {list(array.shape)}; expected"
        f" [N, {', '.join(map(str, shape))}], the shape that the network takes"
    )
  if not array.size:
    raise ArgumentError(
        f"{name} are empty, of shape {list(array.shape)}; expected one or more"
    )
  if array.dtype == np.uint8:
    if data_range not in (None, (0.0, 1.0)):
      raise ArgumentError(
          f"{name} are uint8, which is read as floats in [0, 1], but data_range"
          f" is {shown(data_range)}; give data_range=(0, 1), or floats"
      )
    return array
  _check_values(array, data_range, name)
  return array


def checked_labels(
    labels: Any, count: int, num_classes: int | None = None,
    *, name: str = "labels",
) -> np.ndarray:
  """Labels as int32 of the host, [count].

  Args:
    labels: NumPy's, JAX's or a list: whole numbers of an integer type, [N].
    count: how many images there are.
    num_classes: they are below it, where it is known.
    name: what messages call them.

  Raises:
    ArgumentError: if they are not integers, or not one for each image, or not from
      0 to num_classes - 1.
  """
  array = _array(labels, name)
  if array.ndim != 1:
    raise ArgumentError(
        f"{name} have the shape {list(array.shape)}; expected [N], the number of"
        f" a class for each image; one-hot rows become that with .argmax(-1)"
    )
  if len(array) != count:
    raise ArgumentError(
        f"there are {len(array)} {name} for {count} images; expected one for"
        f" each"
    )
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise ArgumentError(
        f"{name} are of type {array.dtype}; expected whole numbers of an integer"
        f" type; convert them with .astype(int)"
    )
  highest = 2**31 if num_classes is None else num_classes
  wrong = (array < 0) | (array >= highest)
  if wrong.any():
    place = int(np.argmax(wrong))
    raise ArgumentError(
        f"{name}[{place}] is {array[place]}; expected from 0 to {highest - 1},"
        f" as the network has {num_classes} outputs" if num_classes else
        f"{name}[{place}] is {array[place]}; expected the number of a class, 0"
        f" or more"
    )
  return array.astype(np.int32)


def float32_images(images: np.ndarray, name: str = "images") -> np.ndarray:
  """Checked images as float32, rounded to nearest; uint8 stays uint8.

  Raises:
    ArgumentError: if a number is too large for float32.
  """
  if images.dtype == np.uint8:
    return images
  with np.errstate(over="ignore"):
    narrow = images.astype(np.float32)
  if not np.isfinite(narrow).all():
    place = _first(~np.isfinite(narrow))
    raise ArgumentError(
        f"{name}{list(place)} is {images[place]}; expected a number that float32"
        f" can hold, at most 3.4e38"
    )
  return narrow


def statistics(
    images: np.ndarray, by_channel: bool = True
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and deviation, of data as floats.

  Args:
    images: [N, ...], uint8 or floats.
    by_channel: whether each channel of images [N, H, W, C] has its own. Other
      data have one for all.

  Returns:
    (mean, std), rounded to six digits after the point; a deviation of 0 is 1.
  """
  channels = images.shape[-1] if by_channel and images.ndim == 4 else 1
  scale = 255 if images.dtype == np.uint8 else 1

  def mean_of(function) -> np.ndarray:
    """In blocks: float64 takes eight times the memory of bytes."""
    total = np.zeros(channels)
    for first in range(0, len(images), _BLOCK):
      block = images[first : first + _BLOCK].reshape(-1, channels)
      total += function(block / np.float64(scale)).sum(axis=0)
    return total / (images.size // channels)

  mean = mean_of(lambda values: values)
  std = np.sqrt(mean_of(lambda values: (values - mean) ** 2))
  std = np.where(std > 0, std, 1)
  return tuple(tuple(round(float(x), 6) for x in s) for s in (mean, std))


def _array(values: Any, name: str) -> np.ndarray:
  """The values on the host.

  Raises:
    ArgumentError: if they are no array, for instance rows of different lengths.
  """
  try:
    array = np.asarray(values)
  except (TypeError, ValueError, OverflowError):
    array = None
  if array is None or array.dtype == object:
    raise ArgumentError(
        f"{name} is {shown(values)}; expected an array of NumPy or JAX whose rows"
        f" are all of one shape"
    )
  return array


def _check_values(
    array: np.ndarray, data_range: Range | None, name: str
) -> None:
  """Raises ArgumentError unless all values are finite and within the range."""
  wrong = ~np.isfinite(array)
  if wrong.any():
    place = _first(wrong)
    raise ArgumentError(
        f"{name}{list(place)} is {array[place]}; expected finite numbers"
    )
  if data_range is None:
    return
  low, high = data_range
  wrong = (array < low) | (array > high)
  if not wrong.any():
    return
  place = _first(wrong)
  advice = "give their range with data_range=(lowest, highest), or None"
  if (low, high) == (0, 1) and array.min() >= 0 and 1 < array.max() <= 255:
    advice = (
        "divide them by what stands for 1, such as 255, or give"
        " data_range=(0, 255), and epsilon in the same units"
    )
  raise ArgumentError(
      f"{name}{list(place)} is {array[place]:g}, outside of the data's range,"
      f" {low:g} to {high:g}; {advice}"
  )


def _first(wrong: np.ndarray) -> tuple[int, ...]:
  """The place of the first True."""
  return tuple(int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape))
