"""Softmax and log-sum-exp, in whatever way they are written."""

import math

import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_patterns import is_a, made_by, operand


def softmax(reader, x: Recording, total: Recording) -> Recording | None:
  """x / total, if it is exp(z) / sum(exp(z)) along one axis.

  A part of z that is the same all along the axis, such as the largest entry that
  was subtracted, cancels.
  """
  if not is_a(reader, x, "exp"):
    return None
  source, places = _source(reader, total)
  axes = _summed(reader, source)
  if axes is None or len(axes) != 1:
    return None
  axis = axes[0]
  if operand(reader, source, 0).number != x.number or not np.array_equal(
      places, _constant_along(x.shape[1:], axis)
  ):
    return None
  return transformers.softmax(_unshifted(reader, operand(reader, x, 0), axis), axis)


def sum_of_exponentials(reader, x: Recording) -> Recording | None:
  """x with known bounds, if it is sum(exp(z - max(z))): from 1 to the count."""
  inner = operand(reader, x, 0) if is_a(reader, x, "absolute") else x
  source, _ = _source(reader, inner)
  axes = _summed(reader, source)
  if axes is None or not is_a(reader, operand(reader, source, 0), "exp"):
    return None
  z = operand(reader, operand(reader, source, 0), 0)
  if not is_a(reader, z, "subtract"):
    return None
  left, right = operand(reader, z, 0), operand(reader, z, 1)
  largest, places = _source(reader, right)
  if not is_a(reader, largest, "max_axes") or dict(
      made_by(reader, largest).options
  )["axes"] != axes or operand(reader, largest, 0).number != left.number:
    return None
  if not np.array_equal(places, _constant_along(left.shape[1:], *axes)):
    return None
  count = math.prod(left.shape[1 + axis] for axis in axes)
  return transformers.clip(inner, 1.0, float(count))


def _summed(reader, x: Recording) -> tuple[int, ...] | None:
  """Axes that x is the sum over; None if it is no sum."""
  if not is_a(reader, x, "sum_axes"):
    return None
  return dict(made_by(reader, x).options)["axes"]


def _source(reader, x: Recording) -> tuple[Recording, np.ndarray]:
  """The value that reshapes and broadcasts made x of, and where its entries are.

  Returns:
    (value, for each entry of x the flat number of the value's).
  """
  path = []
  while is_a(reader, x, "reshape") or is_a(reader, x, "broadcast"):
    path.append((made_by(reader, x).transformer, x.shape[1:]))
    x = operand(reader, x, 0)
  places = np.arange(math.prod(x.shape[1:])).reshape(x.shape[1:])
  for name, shape in reversed(path):
    places = (
        places.reshape(shape) if name == "reshape"
        else np.broadcast_to(places, shape)
    )
  return x, places


def _constant_along(shape: tuple[int, ...], *axes: int) -> np.ndarray:
  """Places, as `_source` has them, of what is the same along axes of `shape`."""
  kept = [1 if axis in axes else n for axis, n in enumerate(shape)]
  places = np.arange(math.prod(kept)).reshape(kept)
  return np.broadcast_to(places, shape)


def _unshifted(reader, z: Recording, axis: int) -> Recording:
  """z without a subtracted part that is the same along the axis."""
  while is_a(reader, z, "subtract"):
    _, places = _source(reader, operand(reader, z, 1))
    first = np.take(places, [0], axis)
    if not (places == first).all():
      break
    z = operand(reader, z, 0)
  return z
