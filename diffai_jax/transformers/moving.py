"""Transformers that move variables without computing with them."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import generators
from diffai_jax.domains.generators import Block, Dense, Diagonal
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, point
from diffai_jax.domains.product import example_shape
from diffai_jax.kernels import precision
from diffai_jax.transformers.dispatch import (
    check_axis,
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.types import Array


@transformer
@functools.singledispatch
def reshape(x, shape: tuple[int, ...]):
  """Reshapes each example to `shape`; the batch axis stays.

  Exact: variables are renumbered, in all fields alike, and nothing is
  computed. A Diagonal block stays one, since its symbols are numbered in the
  order of the flattened variables, which reshaping keeps.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    shape: one example's new shape, of the same size.

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "reshape")
  return x.reshape((x.shape[0],) + tuple(shape))


register_parts(reshape)


@reshape.register
def _(x: HybridZonotope, shape: tuple[int, ...]) -> HybridZonotope:
  uncorrelated = x.uncorrelated
  if uncorrelated is not None:
    uncorrelated = reshape(uncorrelated, shape)
  correlated = {
      name: generators.reshape(block, shape)
      for name, block in x.correlated.items()
  }
  return dataclasses.replace(
      x,
      center=reshape(x.center, shape),
      uncorrelated=uncorrelated,
      correlated=correlated,
  )


def flatten(x):
  """Reshapes each example to a vector, [B, ...] to [B, n]."""
  return reshape(x, (math.prod(example_shape(x)),))


@transformer
@functools.singledispatch
def constant(x, shift: Array):
  """The same numbers for every example, whatever x is.

  Exact: as an element it is a point. It moves with none of x's symbols, and has
  x's rules, so that it can meet elements that do.

  Args:
    x: array [B, ...], HybridZonotope or Product: how many examples, and of which
      kind.
    shift: one example's numbers, [...].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "constant")
  shift = jnp.asarray(shift, precision.widest(x))
  return jnp.broadcast_to(shift, x.shape[:1] + shift.shape)


register_parts(constant)


@constant.register
def _(x: HybridZonotope, shift: Array) -> HybridZonotope:
  held = point(jnp.asarray(shift)[None])
  shape = x.center.shape[:1] + held.center.shape[1:]
  spread = lambda a: None if a is None else jnp.broadcast_to(a, shape)
  return HybridZonotope(
      spread(held.center), spread(held.uncorrelated), {}, x.relu, x.zonotope
  )


@transformer
@functools.singledispatch
def gather(x, indices, axis: int = -1):
  """The entries of an axis at `indices`; `numpy.take` along one axis.

  Sound: every output variable is an input variable. One that is taken twice
  keeps its symbols in both places; its uncorrelated error counts as independent
  in each, which only adds points. A Diagonal block becomes Dense, m·n numbers
  for n outputs; Local ones too.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    indices: static sequence of int, not negative.
    axis: of one example, 0 is the first after the batch; or negative.

  Raises:
    IndexError: if an index is not within the axis.
    TypeError: for any other kind.
  """
  require_array(x, "gather")
  behind = check_axis(axis, x.ndim - 1) + 1
  indices = np.asarray(indices)
  if indices.size and not np.issubdtype(indices.dtype, np.integer):
    raise IndexError(f"gather takes whole numbers, not {indices.dtype}")
  indices = indices.astype(int)
  size = x.shape[behind]
  if indices.size and not 0 <= indices.min() <= indices.max() < size:
    raise IndexError(
        f"gather wants entries {indices.min()} to {indices.max()} of an axis"
        f" of size {size}"
    )
  return jnp.take(x, indices, axis=behind)


register_parts(gather)


@gather.register
def _(x: HybridZonotope, indices, axis: int = -1) -> HybridZonotope:
  shape = example_shape(x)
  axis = check_axis(axis, len(shape))
  uncorrelated = x.uncorrelated
  if uncorrelated is not None:
    uncorrelated = gather(uncorrelated, indices, axis)
  return dataclasses.replace(
      x,
      center=gather(x.center, indices, axis),
      uncorrelated=uncorrelated,
      correlated={
          name: _gather_block(block, np.asarray(indices, int), axis, shape)
          for name, block in x.correlated.items()
      },
  )


def _gather_block(
    block: Block, indices: np.ndarray, axis: int, shape: tuple[int, ...]
) -> Dense:
  if not isinstance(block, Diagonal):
    coefficients = generators.to_dense(block).coefficients
    return Dense(jnp.take(coefficients, indices, axis=axis + 2))
  size = math.prod(shape)
  # Output variable i is input variable source[i], moved by that symbol alone.
  source = np.arange(size).reshape(shape).take(indices, axis=axis)
  hit = jnp.arange(size)[:, None] == jnp.asarray(source.reshape(-1))
  flat = block.coefficients.reshape(-1, size, 1)
  dense = jnp.where(hit, flat, 0)
  return Dense(dense.reshape(dense.shape[:2] + source.shape))
