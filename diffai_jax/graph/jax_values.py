"""What flows through a jaxpr while it is read: the batch is kept apart.

A variable of the jaxpr is one of

- a constant: an array, which may be traced (weights inside of a training step);
- `Repeated`: a constant that is the same along some axes, of which one is kept;
- `Batched`: a value of the graph, and which of its axes in JAX is the batch;
- `Compared`: a comparison of such values, which only a known pattern can use.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from diffai_jax.graph.building import Recording
from diffai_jax.types import Array


class Unreadable(Exception):
  """An equation has no counterpart; the reader adds the primitive's place."""


class MixesBatch(Unreadable):
  """An equation makes one example's result depend on others."""

  def __init__(self, how: str):
    super().__init__(
        f"it {how}; a network must treat each example of the batch, the first"
        f" axis of its input, alone"
    )


@dataclasses.dataclass(frozen=True)
class Repeated:
  """A constant of which equal parts are left out.

  Attributes:
    array: the constant, with size 1 along axes where it is the same all along.
    shape: that it stands for.
  """

  array: Array
  shape: tuple[int, ...]

  def whole(self) -> Array:
    return jax.numpy.broadcast_to(self.array, self.shape)


@dataclasses.dataclass(frozen=True)
class Batched:
  """A value that depends on the network's input.

  Attributes:
    value: in the graph, batch first.
    axis: of the batch in the jaxpr's variable.
  """

  value: Recording
  axis: int = 0

  @property
  def shape(self) -> tuple[int, ...]:
    """Of one example."""
    return self.value.shape[1:]

  @property
  def number(self) -> int:
    return self.value.number

  def inner(self, axis: int) -> int:
    """An axis of the jaxpr's variable as one of an example.

    Raises:
      MixesBatch: if it is the batch.
    """
    if axis == self.axis:
      raise MixesBatch("works along the batch")
    return axis - (axis > self.axis)

  def outer(self, axis: int) -> int:
    """An axis of an example as one of the jaxpr's variable."""
    return axis + (axis >= self.axis)

  def without_batch(self, entries: tuple) -> tuple:
    """Entries for each axis of the variable, those of an example alone."""
    return tuple(entries[: self.axis]) + tuple(entries[self.axis + 1 :])


@dataclasses.dataclass(frozen=True)
class Rows:
  """A variable whose batch shares its axis with the example's axis after it.

  Attributes:
    parts: the variable as it is with the two axes apart.
  """

  parts: Batched


@dataclasses.dataclass(frozen=True)
class Compared:
  """left OP right, elementwise, OP one of gt, ge, lt, le, eq, ne."""

  operator: str
  left: Any
  right: Any


def depends(value: Any) -> bool:
  """Whether a value depends on the network's input."""
  return isinstance(value, Batched | Compared | Rows)


def known(value: Any) -> np.ndarray | None:
  """A constant's numbers; None if they are traced or there are none."""
  if isinstance(value, Repeated):
    value = value.array
  if depends(value) or isinstance(value, jax.core.Tracer):
    return None
  return np.asarray(value)


def number(value: Any) -> float | None:
  """A constant's one number; None if it has several or they are traced."""
  found = known(value)
  if found is None or not found.size or not jax.numpy.issubdtype(
      found.dtype, np.number
  ):
    return None
  flat = found.reshape(-1)
  same = flat[0] == flat[-1] and (flat == flat[0]).all()
  return float(flat[0]) if same else None


def whole(value: Any) -> Array:
  """A constant as an array of its full shape."""
  return value.whole() if isinstance(value, Repeated) else value


def for_one(constant: Any, axis: int) -> Array:
  """A constant that meets values, as it meets one example of them.

  Args:
    constant: array or Repeated, of no axes or as many as the values.
    axis: of the batch.

  Raises:
    MixesBatch: if it differs from example to example.
  """
  array = constant.array if isinstance(constant, Repeated) else constant
  if not np.ndim(array):
    return array
  if array.shape[axis] == 1:
    return array.squeeze(axis)
  numbers = known(array)
  if numbers is None:
    raise MixesBatch("uses an array with an entry for each example")
  rows = np.moveaxis(numbers, axis, 0)
  if not np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape), True):
    raise MixesBatch("uses numbers that differ from example to example")
  return rows[0]
