"""Which points are in a region exactly: of what is kept, without any tolerance.

In NumPy and in the numbers that the caller gave. A region's own bounds are wider,
since proofs must hold for all that rounding may bring in.
"""

import dataclasses

import numpy as np

from diffai_jax.regions.box_bounds import Bounds
from diffai_jax.regions.l2 import L2
from diffai_jax.regions.linf import Linf, aligned

_UNIT = 2.0**-53  # Of float64, in which distances are summed.


def moved_inside(
    region: Linf | L2 | Bounds, points: np.ndarray, images: np.ndarray
) -> np.ndarray:
  """The nearest points of the same type that are in the region, [B, ...].

  Those of an L2 ball that are not within its radius by far more than float64
  rounds become the image, as do those that are NaN.

  Args:
    region: around the images; with numbers that are known.
    points: floats, [B, ...].
    images: floats, [B, ...].
  """
  low, high = _box(region, images, points.dtype)
  moved = np.clip(points, low, high)
  kept = ~np.isnan(points)
  if isinstance(region, L2):
    kept &= _is_near(region, moved, images)
  return np.where(kept, moved, images).astype(points.dtype)


def contains(
    region: Linf | L2 | Bounds, points: np.ndarray, images: np.ndarray
) -> np.ndarray:
  """Whether points are in the region, bool [B]; arguments as `moved_inside`'s.

  The image itself always is.
  """
  moved = moved_inside(region, points, images)
  return np.all(moved == points, axis=tuple(range(1, points.ndim)))


def of_rows(
    region: Linf | L2 | Bounds, shape: tuple[int, ...], rows: np.ndarray
) -> Linf | L2 | Bounds:
  """The region of some examples alone.

  Args:
    region: around images.
    shape: of all images, [N, ...].
    rows: bool [N], or the examples' numbers.
  """
  if isinstance(region, Bounds):
    ends = (
        np.broadcast_to(np.asarray(end), shape)[rows]
        for end in (region.lower, region.upper)
    )
    return Bounds(*ends)
  epsilon = np.asarray(aligned(region.epsilon, shape))
  if epsilon.ndim:
    each = np.broadcast_to(epsilon, shape[:1] + epsilon.shape[1:])
    epsilon = each[rows]
  return dataclasses.replace(region, epsilon=epsilon)


def _box(region, images: np.ndarray, dtype) -> tuple[np.ndarray, np.ndarray]:
  """The numbers of a type that are in the region's box, between two, [B, ...]."""
  if isinstance(region, Bounds):
    ends = (
        np.broadcast_to(np.asarray(end), images.shape)
        for end in (region.lower, region.upper)
    )
    low, high = (np.asarray(end, np.float64) for end in ends)
    low, high = -_at_most(-low, 0, dtype), _at_most(high, 0, dtype)
  else:
    reach = np.asarray(aligned(region.epsilon, images.shape), np.float64)
    center = images.astype(np.float64)
    low = -_at_most(*_sum(-center, reach), dtype)
    high = _at_most(*_sum(center, reach), dtype)
    if region.data_range is not None:
      least, most = map(np.float64, region.data_range)
      low = np.maximum(low, -_at_most(-least, 0, dtype))
      high = np.minimum(high, _at_most(most, 0, dtype))
  return np.minimum(low, images), np.maximum(high, images)


def _sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """a + b as a sum of two floats, exactly (Knuth's TwoSum)."""
  total = a + b
  part = total - a
  return total, (a - (total - part)) + (b - part)


def _at_most(value: np.ndarray, rest: np.ndarray, dtype) -> np.ndarray:
  """The largest numbers of a type that are at most value + rest.

  Args:
    value, rest: float64, the rest less than half of value's last digit.
  """
  with np.errstate(over="ignore"):
    near = np.asarray(value, dtype)
  above = (near > value) | ((near == value) & (rest < 0))
  below = np.nextafter(near, np.asarray(-np.inf, dtype))
  return np.where(above, below, near)


def _is_near(region: L2, points: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Whether the distance, and all that rounding may hide, is at most ε."""
  axes = tuple(range(1, points.ndim))
  way = points.astype(np.float64) - images.astype(np.float64)
  largest = np.max(np.abs(way), axes, keepdims=True, initial=0)
  scale = np.where(largest > 0, largest, 1)
  length = scale * np.sqrt(np.sum(np.square(way / scale), axes, keepdims=True))
  reach = np.asarray(aligned(region.epsilon, images.shape), np.float64)
  hidden = 4 * (way[0].size + 8) * _UNIT
  return (length == 0) | (length * (1 + hidden) <= reach)
