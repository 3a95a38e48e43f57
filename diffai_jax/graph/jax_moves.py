"""Equations that move numbers: reshapes, transposes, slices, gathers, pads."""

from collections.abc import Sequence
import math

import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_constants import now
from diffai_jax.graph.jax_values import (
    Batched,
    MixesBatch,
    Rows,
    Unreadable,
    for_one,
    known,
    number,
)


def turned(x: Recording, axes: Sequence[int]) -> Recording:
  """Its axes in that order, axes of one example."""
  if tuple(axes) == tuple(range(len(axes))):
    return x
  return transformers.transpose(x, tuple(map(int, axes)))


def shaped(x: Recording, shape: Sequence[int]) -> Recording:
  """One example in that shape."""
  shape = tuple(map(int, shape))
  return x if shape == x.shape[1:] else transformers.reshape(x, shape)


def spread(x: Recording, shape: Sequence[int]) -> Recording:
  """One example broadcast to that shape."""
  shape = tuple(map(int, shape))
  return x if shape == x.shape[1:] else transformers.broadcast(x, shape)


def _reshape(reader, eqn, x: Batched | Rows) -> Batched | Rows:
  if eqn.params.get("dimensions") is not None:
    raise Unreadable("it permutes dimensions")
  x = x.parts if isinstance(x, Rows) else x
  sizes = tuple(map(int, eqn.outvars[0].aval.shape))
  before = math.prod(x.shape[: x.axis])
  for axis, size in enumerate(sizes):
    if size and size % reader.batch == 0 and math.prod(sizes[:axis]) == before:
      rows = size // reader.batch
      shape = sizes[:axis] + (rows,) * (rows > 1) + sizes[axis + 1 :]
      found = Batched(shaped(x.value, shape), axis)
      return found if rows == 1 else Rows(found)
  raise MixesBatch("makes the batch a part of another axis")


def _transpose(reader, eqn, x: Batched) -> Batched:
  permutation = eqn.params["permutation"]
  axes = [x.inner(axis) for axis in permutation if axis != x.axis]
  return Batched(turned(x.value, axes), permutation.index(x.axis))


def _squeeze(reader, eqn, x: Batched) -> Batched:
  gone = {x.inner(axis) for axis in eqn.params["dimensions"]}
  shape = [n for axis, n in enumerate(x.shape) if axis not in gone]
  before = sum(x.outer(axis) < x.axis for axis in gone)
  return Batched(shaped(x.value, shape), x.axis - before)


def _broadcast_in_dim(reader, eqn, x: Batched) -> Batched:
  sizes, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
  axis = places[x.axis]
  shape = [1] * len(sizes)
  for size, place in zip(x.shape, x.without_batch(places)):
    shape[place] = size
  sizes, shape = (s[:axis] + s[axis + 1 :] for s in (list(sizes), shape))
  return Batched(spread(shaped(x.value, shape), sizes), axis)


def _whole_batch(reader, x: Batched, start, stop, stride) -> None:
  if (start[x.axis], stop[x.axis], stride[x.axis]) != (0, reader.batch, 1):
    raise MixesBatch("takes a part of the batch")


def _slice(reader, eqn, x: Batched) -> Batched:
  starts, stops = eqn.params["start_indices"], eqn.params["limit_indices"]
  strides = eqn.params["strides"] or (1,) * len(starts)
  _whole_batch(reader, x, starts, stops, strides)
  bounds = [x.without_batch(tuple(b)) for b in (starts, stops, strides)]
  return Batched(sliced(x.value, *bounds), x.axis)


def sliced(x: Recording, starts, stops, strides) -> Recording:
  """A range of each axis of one example."""
  starts, stops, strides = (
      tuple(map(int, bound)) for bound in (starts, stops, strides)
  )
  count = len(starts)
  if (starts, stops, strides) == ((0,) * count, x.shape[1:], (1,) * count):
    return x
  return transformers.slice_axes(x, starts, stops, strides)


def _split(reader, eqn, x: Batched) -> list[Batched]:
  axis, parts, start = x.inner(eqn.params["axis"]), [], 0
  for size in map(int, eqn.params["sizes"]):
    starts, stops = [0] * len(x.shape), list(x.shape)
    starts[axis], stops[axis] = start, start + size
    start += size
    part = sliced(x.value, starts, stops, [1] * len(starts))
    parts.append(Batched(part, x.axis))
  return parts


def _concatenate(reader, eqn, *parts) -> Batched:
  axis = _batch(parts)
  inner = eqn.params["dimension"]
  if inner == axis:
    raise MixesBatch("concatenates along the batch")
  return _joined(eqn, parts, axis, inner - (inner > axis), None)


def _stack(reader, eqn, *parts) -> Batched:
  axis, place = _batch(parts), eqn.params["axis"]
  found = _joined(eqn, parts, axis, place - (place > axis), place)
  return Batched(found.value, axis + (place <= axis))


def _tile(reader, eqn, x: Batched) -> Batched:
  times = eqn.params["reps"]
  if times[x.axis] != 1:
    raise MixesBatch("repeats the batch")
  value = x.value
  for axis, count in enumerate(x.without_batch(tuple(times))):
    if count != 1:
      value = transformers.concat([value] * int(count), axis)
  return Batched(value, x.axis)


def _batch(parts: Sequence) -> int:
  """The axis of the batch in values, which must agree."""
  axes = {part.axis for part in parts if isinstance(part, Batched)}
  if len(axes) > 1:
    raise MixesBatch("joins the batch with another axis")
  return axes.pop()


def _joined(eqn, parts, batch: int, axis: int, new: int | None) -> Batched:
  """Values and constants along an axis of one example, which may be new."""
  like = next(part.value for part in parts if isinstance(part, Batched))
  values = []
  for atom, part in zip(eqn.invars, parts):
    shape = list(atom.aval.shape)
    del shape[batch]
    if isinstance(part, Batched):
      value = part.value
    else:
      row = for_one(part, batch)
      row = now(lambda a, s=tuple(shape): jnp.broadcast_to(a, s), row)
      value = transformers.constant(like, row)
    if new is not None:
      value = shaped(value, shape[:axis] + [1] + shape[axis:])
    values.append(value)
  return Batched(transformers.concat(values, axis), batch)


def _pad(reader, eqn, x: Batched, fill) -> Batched:
  if not isinstance(x, Batched):
    raise Unreadable("it pads constants with a value that depends on the input")
  config = eqn.params["padding_config"]
  if tuple(config[x.axis]) != (0, 0, 0):
    raise MixesBatch("pads the batch")
  value = number(fill)
  if value is None:
    raise Unreadable("what it pads with is not known while reading")
  widths = tuple(tuple(map(int, w)) for w in x.without_batch(tuple(config)))
  return Batched(padded(x.value, widths, value), x.axis)


def padded(x: Recording, widths, fill: float = 0.0) -> Recording:
  """(low, high, interior) numbers more on each axis of one example."""
  if not any(map(any, widths)):
    return x
  return transformers.pad(x, tuple(widths), fill)


def _moved(reader, eqn, x, *constants) -> Batched:
  """Any primitive that only picks entries: it is run on their numbers."""
  numbers = [known(constant) for constant in constants]
  if not isinstance(x, Batched) or any(n is None for n in numbers):
    raise Unreadable("its indices are not known while reading")
  size = math.prod(x.shape)
  places = np.arange(reader.batch * size, dtype=np.int32)
  places = places.reshape(reader.batch, *x.shape)
  params = dict(eqn.params)
  if "fill_value" in params:
    params["fill_value"] = -1
  found = np.asarray(now(
      lambda *a: eqn.primitive.bind(*a, **params),
      np.moveaxis(places, 0, x.axis), *numbers,
  ))
  if found.size and found.min() < 0:
    raise Unreadable("it takes entries outside of the axis")
  rows = np.arange(reader.batch) * size
  for axis in range(found.ndim):
    if found.shape[axis] == reader.batch:
      by_row = np.moveaxis(found, axis, 0)
      offsets = by_row - rows.reshape(-1, *[1] * (found.ndim - 1))
      if (offsets == by_row[:1]).all() and (by_row[0] < size).all():
        return Batched(_picked(x.value, by_row[0]), axis)
  raise MixesBatch("moves entries between examples")


def _picked(x: Recording, places: np.ndarray) -> Recording:
  """Entries of one example by their flat numbers, along axes if possible."""
  shape = x.shape[1:]
  grids = [places]
  if places.ndim + 1 == len(shape):
    grids = [np.expand_dims(places, axis) for axis in range(len(shape))]
  for grid in grids:
    along = _along_axes(grid, shape)
    if along is not None:
      for axis, indices in enumerate(along):
        if not np.array_equal(indices, np.arange(shape[axis])):
          x = _along(x, indices, axis)
      return shaped(x, places.shape)
  flat = transformers.gather(
      shaped(x, (math.prod(shape),)), tuple(places.reshape(-1).tolist()), -1
  )
  return shaped(flat, places.shape)


def _along_axes(grid: np.ndarray, shape: tuple[int, ...]) -> list | None:
  """Indices along each axis whose combinations are `grid`, if there are."""
  if grid.ndim != len(shape) or not grid.size:
    return None
  along = []
  for axis, entries in enumerate(np.unravel_index(grid, shape)):
    line = np.moveaxis(entries, axis, 0).reshape(entries.shape[axis], -1)
    if (line != line[:, :1]).any():
      return None
    along.append(line[:, 0])
  return along


def _along(x: Recording, indices: np.ndarray, axis: int) -> Recording:
  steps = np.diff(indices)
  stride = int(steps[0]) if steps.size else 1
  if stride < 1 or (steps != stride).any():
    return transformers.gather(x, tuple(indices.tolist()), axis)
  starts, stops = [0] * (x.ndim - 1), list(x.shape[1:])
  strides = [1] * (x.ndim - 1)
  starts[axis], stops[axis] = int(indices[0]), int(indices[-1]) + 1
  strides[axis] = stride
  return sliced(x, starts, stops, strides)


RULES = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dynamic_slice": _moved,
    "gather": _moved,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _moved,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "transpose": _transpose,
}
