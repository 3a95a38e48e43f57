"""Transformers that arrange variables anew: transpose, pad, slice, broadcast.

All are exact: an output variable is an input variable, with its center, its error
and its symbols, or a number that is given. One that is taken more than once keeps
its symbols in all places; its uncorrelated error counts as independent in each,
which only adds points.

Symbols keep their numbers, so a Diagonal block, whose symbols are numbered as its
variables are, cannot stay one when these move. Over images it becomes windows of
one pixel, and windows stay windows where their image is padded, cropped or
thinned out. Everything else becomes Dense, m symbols times n variables.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import math

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import generators, rounding, windows
from diffai_jax.domains.generators import Block, Dense, Diagonal, Local
from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.domains.merging import to_windows
from diffai_jax.domains.product import example_shape
from diffai_jax.transformers.dispatch import (
    check_axis,
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.moving import reshape
from diffai_jax.transformers.structure.block_convolution import pool_block
from diffai_jax.types import Array


@transformer
@functools.singledispatch
def transpose(x, axes: tuple[int, ...]):
  """Permutes the axes of each example, as `numpy.transpose`.

  A Diagonal block over three axes becomes windows of one pixel if the axis of
  the result's rows comes before that of its columns, as in [C, H, W] to
  [H, W, C]; where only axes of size 1 move, blocks stay what they are.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    axes: of one example, each once; 0 is the first after the batch.

  Raises:
    ValueError: if these are not the axes of an example.
    TypeError: for any other kind.
  """
  require_array(x, "transpose")
  axes = _permutation(axes, x.ndim - 1)
  return jnp.transpose(x, (0, *(axis + 1 for axis in axes)))


register_parts(transpose)


@transpose.register
def _(x: HybridZonotope, axes: tuple[int, ...]) -> HybridZonotope:
  shape = example_shape(x)
  axes = _permutation(axes, len(shape))
  moving = [axis for axis in axes if shape[axis] != 1]
  if moving == sorted(moving):
    return reshape(x, tuple(shape[axis] for axis in axes))

  def block(given: Block) -> Block:
    if isinstance(given, Diagonal) and len(axes) == 3 and axes[0] < axes[1]:
      return _transposed_pixels(given, axes)
    return _as_dense(given, lambda values: transpose(values, axes))

  return _arranged(x, lambda values: transpose(values, axes), block)


def _permutation(axes: Sequence[int], rank: int) -> tuple[int, ...]:
  found = tuple(check_axis(axis, rank) for axis in axes)
  if sorted(found) != list(range(rank)):
    raise ValueError(
        f"transpose wants each of the {rank} axes of an example once, not"
        f" {tuple(axes)}"
    )
  return found


def _transposed_pixels(block: Diagonal, axes: tuple[int, ...]) -> Local:
  """A Diagonal over three axes as pixels of the image of these axes.

  Its symbols, numbered by all three axes in their order, are those of a grid: the
  grid's rows have the axes up to the image's rows, its columns those up to
  the image's columns.
  """
  row, column, channel = axes
  shape = block.coefficients.shape[1:]
  ends = (0, row + 1, column + 1, 3)
  grid = [math.prod(shape[a:b]) for a, b in zip(ends, ends[1:])]
  reached = np.indices(shape)[channel].reshape(*grid, 1)
  one = reached == np.arange(shape[channel])
  symbols = block.coefficients.reshape(-1, *grid, 1)
  pixels = jnp.where(one, symbols, 0)[..., None, None, :]
  rows, columns = (
      tuple(i % shape[axis] for i in range(size))
      for axis, size in ((row, grid[0]), (column, grid[1]))
  )
  return Local(pixels, rows, columns, (shape[row], shape[column]))


@transformer
@functools.singledispatch
def pad(x, widths: tuple[tuple[int, int, int], ...], fill: float = 0.0):
  """Pads, crops and spreads each example, as `jax.lax.pad`.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    widths: (low, high, interior) of each axis of one example: how many entries
      come before its first one, behind its last one, and between each two.
      Negative ones before and behind are cut off.
    fill: what these entries are, known exactly: an element allows for what its
      type cannot hold of the number.

  Raises:
    ValueError: if there is not one triple for each axis, an interior one is
      negative, or more is cut off than there is.
    TypeError: for any other kind.
  """
  require_array(x, "pad")
  widths = _widths(widths, x.shape[1:])
  return lax.pad(jnp.asarray(x), jnp.asarray(fill, x.dtype),
                 [(0, 0, 0), *widths])


register_parts(pad)


@pad.register
def _(
    x: HybridZonotope,
    widths: tuple[tuple[int, int, int], ...],
    fill: float = 0.0,
) -> HybridZonotope:
  widths = _widths(widths, example_shape(x))
  if not any(map(any, widths)):
    return x

  def block(given: Block) -> Block:
    given = to_windows(given)
    if isinstance(given, Local) and not given.flat:
      return _padded_windows(given, widths)
    return _as_dense(given, lambda values: pad(values, widths))

  padded = _arranged(x, lambda values: pad(values, widths), block)
  center = pad(x.center, widths, fill)
  held = np.asarray(fill, center.dtype)
  moved = abs(float(fill) - float(held)) if np.isfinite(fill) else 0.0
  uncorrelated = padded.uncorrelated
  if moved:
    smallest = rounding.tiny(center.dtype)
    if uncorrelated is None:
      uncorrelated = jnp.zeros_like(center)
    known = pad(jnp.zeros(x.center.shape, bool), widths, True)
    # Rounded up, whatever the type.
    uncorrelated = jnp.where(known, max(2 * moved, smallest), uncorrelated)
    uncorrelated = uncorrelated.astype(center.dtype)
  return dataclasses.replace(padded, center=center, uncorrelated=uncorrelated)


def _widths(widths, shape: tuple[int, ...]) -> tuple[tuple[int, int, int], ...]:
  """The widths, checked against an example's shape."""
  widths = tuple(tuple(map(int, width)) for width in widths)
  if len(widths) != len(shape) or any(len(width) != 3 for width in widths):
    raise ValueError(
        f"pad wants (low, high, interior) for each axis of {shape}, not {widths}"
    )
  for size, (low, high, interior) in zip(shape, widths):
    if interior < 0 or _padded_size(size, low, high, interior) < 0:
      raise ValueError(
          f"an axis of size {size} cannot be padded by {low} before it,"
          f" {high} behind it and {interior} between its entries"
      )
  return widths


def _padded_size(size: int, low: int, high: int, interior: int) -> int:
  return low + high + size + max(size - 1, 0) * interior


def _padded_windows(block: Local, widths) -> Local:
  """Windows of the padded image: at other places, and wider if it is spread."""
  *by_axis, of_channels = widths
  sizes = tuple(
      _padded_size(size, *width) for size, width in zip(block.shape, by_axis)
  )
  rows, columns = (
      tuple(low + place * (1 + interior) for place in places)
      for places, (low, _, interior) in zip((block.rows, block.columns), by_axis)
  )
  spread = [(0, 0, 0)] * 4 + [(0, 0, width[2]) for width in by_axis]
  zero = jnp.zeros((), block.coefficients.dtype)
  coefficients = lax.pad(
      jnp.asarray(block.coefficients), zero, [*spread, of_channels]
  )
  inside = windows.cut(rows, columns, coefficients.shape[4:6], sizes)
  return Local(jnp.where(inside, coefficients, 0), rows, columns, sizes)


@transformer
@functools.singledispatch
def slice_axes(
    x, starts: tuple[int, ...], stops: tuple[int, ...], strides: tuple[int, ...]
):
  """Entries start, start + stride, … below stop of each axis of an example.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    starts, stops, strides: a number for each axis; 0 ≤ start ≤ stop ≤ size and
      strides of at least 1. (`gather` takes entries in any order.)

  Raises:
    ValueError: if that does not hold.
    TypeError: for any other kind.
  """
  require_array(x, "slice_axes")
  _check_slices(starts, stops, strides, x.shape[1:])
  cuts = [slice(*ends) for ends in zip(starts, stops, strides)]
  return x[(slice(None), *cuts)]


register_parts(slice_axes)


@slice_axes.register
def _(
    x: HybridZonotope, starts: tuple[int, ...], stops: tuple[int, ...],
    strides: tuple[int, ...],
) -> HybridZonotope:
  shape = example_shape(x)
  _check_slices(starts, stops, strides, shape)
  if not any(starts) and tuple(stops) == shape and set(strides) <= {1}:
    return x

  def block(given: Block) -> Block:
    given = to_windows(given)
    if isinstance(given, Local) and not given.flat and all(
        start < stop for start, stop in zip(starts, stops)
    ):
      widths = tuple(
          (-start, stop - size, 0)
          for start, stop, size in zip(starts, stops, shape)
      )
      cropped = _padded_windows(given, widths)
      *steps, step = strides
      cropped = dataclasses.replace(
          cropped, coefficients=cropped.coefficients[..., ::step]
      )
      if steps == [1, 1]:
        return cropped
      return pool_block(cropped, np.ones((1, 1)), tuple(steps), 0)
    return _as_dense(given, lambda v: slice_axes(v, starts, stops, strides))

  return _arranged(
      x, lambda values: slice_axes(values, starts, stops, strides), block
  )


def _check_slices(starts, stops, strides, shape: tuple[int, ...]) -> None:
  count = {len(starts), len(stops), len(strides), len(shape)}
  if len(count) == 1 and all(
      0 <= start <= stop <= size and stride >= 1
      for start, stop, stride, size in zip(starts, stops, strides, shape)
  ):
    return
  raise ValueError(
      f"slice_axes cannot take {tuple(starts)} to {tuple(stops)} in steps of"
      f" {tuple(strides)} of the shape {shape}; it wants 0 <= start <= stop <="
      f" size and steps of at least 1 for each axis"
  )


@transformer
@functools.singledispatch
def broadcast(x, shape: tuple[int, ...]):
  """Repeats each example along new axes and those of size 1, as NumPy does.

  A Diagonal block whose variables are repeated becomes Dense.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    shape: one example's new shape; its last axes are those of x, or of size 1
      there.

  Raises:
    ValueError: if an example does not broadcast to that shape.
    TypeError: for any other kind.
  """
  require_array(x, "broadcast")
  shape, own = tuple(shape), x.shape[1:]
  new = len(shape) - len(own)
  if new < 0 or any(a not in (1, b) for a, b in zip(own, shape[max(new, 0):])):
    raise ValueError(f"an example of shape {own} does not broadcast to {shape}")
  x = x.reshape(x.shape[:1] + (1,) * new + own)
  return jnp.broadcast_to(x, x.shape[:1] + shape)


register_parts(broadcast)


@broadcast.register
def _(x: HybridZonotope, shape: tuple[int, ...]) -> HybridZonotope:
  shape, own = tuple(shape), example_shape(x)
  if own == shape:
    return x
  act = lambda values: broadcast(values, shape)
  if math.prod(own) == math.prod(shape) and len(own) <= len(shape):
    act(x.center[:1])  # Refuses shapes that only have as many entries.
    return reshape(x, shape)
  return _arranged(x, act, lambda given: _as_dense(given, act))


def _arranged(
    x: HybridZonotope,
    act: Callable[[Array], Array],
    block: Callable[[Block], Block],
) -> HybridZonotope:
  """The element whose arrays [B, ...] and blocks have been arranged."""
  own = x.uncorrelated
  return dataclasses.replace(
      x,
      center=act(x.center),
      uncorrelated=None if own is None else act(own),
      correlated={name: block(given) for name, given in x.correlated.items()},
  )


def _as_dense(block: Block, act: Callable[[Array], Array]) -> Dense:
  """Every symbol's coefficients arranged as those of an example."""
  coefficients = generators.to_dense(block).coefficients
  lead = coefficients.shape[:2]
  flat = coefficients.reshape((math.prod(lead),) + coefficients.shape[2:])
  moved = act(flat)
  return Dense(moved.reshape(lead + moved.shape[1:]))
