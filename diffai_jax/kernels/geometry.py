"""Strides, paddings and dilations of both directions, from what a caller gave.

One number stands for both directions, and for both sides of an axis.
"""

import jax.numpy as jnp
from jax import lax
import numpy as np

from diffai_jax.types import Array

Number = int | tuple[int, int]
Sides = int | tuple[tuple[int, int], tuple[int, int]]


def pair(value: Number) -> tuple[int, int]:
  """A stride, dilation or window as numbers of rows and columns."""
  if isinstance(value, (tuple, list)):
    rows, columns = value
    return int(rows), int(columns)
  return value, value


def sides(padding: Sides) -> tuple[tuple[int, int], tuple[int, int]]:
  """A padding as ((top, bottom), (left, right))."""
  if isinstance(padding, (tuple, list)):
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))
  return (padding, padding), (padding, padding)


def one_number(*values: Number | Sides) -> list[int] | None:
  """Each value as the number that it is in all directions; None if one is not."""
  numbers = [set(np.ravel(value).tolist()) for value in values]
  if any(len(found) > 1 for found in numbers):
    return None
  return [found.pop() for found in numbers]


def reach(window: tuple[int, int], dilation: Number) -> tuple[int, int]:
  """Rows and columns from a dilated window's first tap to its last, inclusive."""
  rows, columns = (
      (taps - 1) * step + 1 for taps, step in zip(window, pair(dilation))
  )
  return rows, columns


def shown(value: Number | Sides) -> str:
  """For messages: one number if it is one in all directions."""
  number = one_number(value)
  return str(value if number is None else number[0])


def check_window(
    sizes: tuple[int, int], window: tuple[int, int], stride: Number,
    padding: Sides,
) -> None:
  """Raises ValueError unless a window fits into the padded image."""
  edges = sides(padding)
  fits = all(
      size + low + high >= taps >= 1
      for size, taps, (low, high) in zip(sizes, window, edges)
  )
  if not fits or min(pair(stride)) < 1 or min(map(min, edges)) < 0:
    raise ValueError(
        f"a window {window[0]}x{window[1]} with stride {shown(stride)} and"
        f" padding {shown(padding)} does not fit an image {sizes[0]}x{sizes[1]}"
    )


def check_groups(channels: int, kernel_shape: tuple, groups: int) -> None:
  """Raises ValueError unless a kernel [kh, kw, C/groups, F] is of these groups."""
  own, filters = kernel_shape[2:]
  if groups < 1 or own * groups != channels or filters % groups:
    raise ValueError(
        f"a kernel of shape {tuple(kernel_shape)} in {groups} groups does not"
        f" fit an image of {channels} channels; it wants [kh, kw,"
        f" channels / groups, filters] and filters that groups divide"
    )


def expanded(kernel: Array, dilation: Number, groups: int) -> Array:
  """The kernel without dilation and groups whose convolution is the same.

  Filled up with zeros between taps, and between channels of other groups.

  Args:
    kernel: [kh, kw, C/groups, F].

  Returns:
    [(kh-1)·dilation + 1, ..., C, F].
  """
  if groups > 1:
    height, width, own, filters = kernel.shape
    split = kernel.reshape(height, width, 1, own, groups, filters // groups)
    same = jnp.eye(groups, dtype=bool)[:, None, :, None]
    kernel = jnp.where(same, split, 0)
    kernel = kernel.reshape(height, width, own * groups, filters)
  steps = pair(dilation)
  if max(steps) > 1:
    holes = [(0, 0, step - 1) for step in steps] + [(0, 0, 0)] * 2
    kernel = jnp.asarray(kernel)
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), holes)
  return kernel
