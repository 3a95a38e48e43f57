"""Softmax, from bounds of differences.

softmax(x)_i = 1/(1 + Σ_{j≠i} exp(x_j - x_i)). A difference of two entries is bounded
by what moves one and not the other: what both have in common cancels. The result
rises in x_i and falls in all x_j, so the bounds of the differences give its bounds.

Rounding. The bounds are widened relative to the values, for a concrete run as well:
it subtracts the largest entry, which is off by u·|x|, takes exponentials of that,
which are off by some ulps and, where a power of 2 is taken, by the exponent's
rounding; sums n of them and divides. What underflows is covered by smallest normal
numbers. A softmax is within 0 and 1, but for a run's rounding.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.domains.generators import Block, Diagonal, to_dense
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, sound
from diffai_jax.kernels import precision
from diffai_jax.kernels.loops import repeat
from diffai_jax.transformers.dispatch import (
    check_axis,
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.relaxation import interval_error, relax
from diffai_jax.types import Array

_ULPS = 32  # As in `smooth`.


@transformer
@functools.singledispatch
def softmax(x, axis: int = -1, *, symbol: str | None = None):
  """exp(x_i) / Σ_j exp(x_j) along an axis of one example; see this file.

  Elements lose their symbols.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    axis: of one example, 0 is the first after the batch; or negative.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if an example has no such axis, or an element is a pure zonotope
      with symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "softmax")
  return jax.nn.softmax(x, axis=check_axis(axis, x.ndim - 1) + 1)


register_parts(softmax)


@softmax.register
def _(
    x: HybridZonotope, axis: int = -1, *, symbol: str | None = None
) -> HybridZonotope:
  x = precision.in_one_type(x)
  behind = check_axis(axis, x.center.ndim - 1) + 1
  size, dtype = x.center.shape[behind], x.center.dtype
  blocks = [
      block if isinstance(block, Diagonal) else to_dense(block)
      for block in x.correlated.values()
  ]
  terms = 2 + sum(
      2 if isinstance(block, Diagonal) else block.coefficients.shape[1]
      for block in blocks
  )

  def others(number, sums):
    """Adds exp(x_j - x_i) for j = i + number + 1, at the least and the most."""
    distance, reach = _difference(x, blocks, behind, number + 1)
    magnitude = jnp.abs(x.center)
    magnitude = magnitude + jnp.roll(magnitude, -(number + 1), behind) + reach
    slack = 2 * rounding.relative(dtype, terms) * magnitude
    slack = lax.stop_gradient(slack + rounding.absolute(dtype, terms))
    least, most = sums
    return (least + jnp.exp(jnp.minimum(distance - reach - slack, cap)),
            most + jnp.exp(jnp.minimum(distance + reach + slack, cap)))

  # No sum overflows, whose gradient would be ∞·0.
  cap = 0.8 * math.log(float(jnp.finfo(dtype).max))
  zero = jnp.zeros_like(x.center)
  least, most = repeat(size - 1, others, (zero, zero))
  # A run's differences, what they do to exponentials, and its sum.
  eps = float(jnp.finfo(dtype).eps)
  largest = jnp.max(_largest(x, blocks), axis=behind, keepdims=True)
  share = lax.stop_gradient(eps * (2 * _ULPS + 2 * size + 16 * largest))
  low = jnp.maximum(1 / (1 + most) * (1 - share), 0)
  low = jnp.where(most < 0.9 * math.exp(cap), low, 0 * most)
  high = jnp.minimum(1 / (1 + least) * (1 + share), 1 + eps * (_ULPS + size))
  tiny = 4 * size * rounding.tiny(dtype)
  offset, error = interval_error(low - tiny, high + tiny)
  return relax(x, jnp.zeros_like(offset), offset, error, symbol)


def _difference(
    x: HybridZonotope, blocks: list[Block], axis: int, step: Array
) -> tuple[Array, Array]:
  """Center and total error of x_j - x_i, j the entry `step` behind i."""

  def rolled(values: Array) -> Array:
    return jnp.roll(values, -step, axis)

  reach = jnp.zeros_like(x.center)
  own = [] if x.uncorrelated is None else [sound(x.uncorrelated)]
  for block in blocks:
    if isinstance(block, Diagonal):
      own.append(jnp.abs(block.coefficients))
      continue
    apart = jnp.roll(block.coefficients, -step, axis + 1) - block.coefficients
    reach = reach + jnp.abs(apart).sum(axis=1)
  for alone in own:
    reach = reach + alone + rolled(alone)
  return rolled(x.center) - x.center, reach


def _largest(x: HybridZonotope, blocks: list[Block]) -> Array:
  """A bound of each variable's magnitude."""
  total = jnp.abs(x.center)
  if x.uncorrelated is not None:
    total = total + x.uncorrelated
  for block in blocks:
    magnitude = jnp.abs(block.coefficients)
    alone = isinstance(block, Diagonal)
    total = total + (magnitude if alone else magnitude.sum(axis=1))
  return total
