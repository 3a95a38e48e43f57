"""Two bounded values that meet other than in a sum: maximum, minimum, product.

Maximum. max(x, y) = y + relu(x - y). The difference d = x - y is bounded by what both
share, and ReLU's rule gives relu(d) within s·d + o ± o, so max(x, y) is within
s·x + (1 - s)·y + o ± o: a mixture of both, whose errors and symbols count once.
Where d has one sign, s is 0 or 1, o is 0, and the result is one of both, exactly.

Product. With x = c + a, y = c' + a', a and a' the error parts, at most R and R',

  x·y = c·c' + c·a' + c'·a + a·a',   |a·a'| ≤ R·R',

so the symbols are kept in the two sums in the middle, and R·R' is fresh error.

Of both there is the interval too: the largest bounds, and the least and largest of
the four products of bounds. It is taken where its error is less than the fresh
one; by the ReLU rule `box`, and without symbols, wherever it is not wider as a
whole. Each is sound, so any choice is.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, merging, rounding
from diffai_jax.domains.generators import Block
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    lower,
    radius,
    sound,
    upper,
)
from diffai_jax.domains.product import Product, Value
from diffai_jax.kernels import precision
from diffai_jax.transformers.curves import square
from diffai_jax.transformers.dispatch import (
    part_symbol,
    require_array,
    transformer,
)
from diffai_jax.transformers.joining import (
    check_shapes,
    negate,
    part_by_part,
    subtract,
    to_elements,
)
from diffai_jax.transformers.relaxation import interval_error, relax
from diffai_jax.transformers.relu import bounded_slope
from diffai_jax.types import Array


@transformer
def maximum(x: Value, y: Value, *, symbol: str | None = None) -> Value:
  """max(x, y), elementwise, of the same shape; by this file's rule.

  Args:
    x, y: arrays [B, ...] and HybridZonotopes, in any mixture; or two Products
      of as many parts, which meet part by part.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if the shapes differ, or the elements' rules, or blocks of one
      name have different numbers of symbols, or a pure zonotope has symbols of
      that name.
    TypeError: for any other kind.
  """
  return _meet("maximum", jnp.maximum, _maximum, x, y, symbol)


@transformer
def minimum(x: Value, y: Value, *, symbol: str | None = None) -> Value:
  """min(x, y) = -max(-x, -y), whose negations are exact; see `maximum`."""

  def of_elements(x, y, dtype, symbol):
    return negate(_maximum(negate(x), negate(y), dtype, symbol))

  return _meet("minimum", jnp.minimum, of_elements, x, y, symbol)


@transformer
def multiply(x: Value, y: Value, *, symbol: str | None = None) -> Value:
  """x · y, elementwise, of the same shape; by this file's rule.

  A value times itself, the same object, is its `square`. What may overflow is
  NaN, as in `affine_rule`.

  Args, Raises: as of `maximum`.
  """
  if x is y:
    return square(x, symbol=symbol)
  return _meet("multiply", jnp.multiply, _multiply, x, y, symbol)


def _meet(
    name: str, concrete: Callable, of_elements: Callable, x: Value, y: Value,
    symbol: str | None,
) -> Value:
  """Arrays, elements and Products of them, by what is done to two of each."""
  if isinstance(x, Product) or isinstance(y, Product):
    return Product(tuple(
        _meet(name, concrete, of_elements, *pair, part_symbol(symbol, number))
        for number, pair in enumerate(part_by_part((x, y)))
    ))
  if not any(isinstance(value, HybridZonotope) for value in (x, y)):
    require_array(x, name)
    require_array(y, name)
    check_shapes(name, x.shape, y.shape)
    return concrete(x, y)
  narrowest = precision.narrowest(*jax.tree.leaves((x, y)))
  x, y = to_elements((x, y), name)
  check_shapes(name, x.center.shape, y.center.shape)
  return of_elements(x, y, narrowest or x.center.dtype, symbol)


def _maximum(
    x: HybridZonotope, y: HybridZonotope, dtype, symbol: str | None
) -> HybridZonotope:
  slope, offset = bounded_slope(subtract(x, y))
  # Bounds of the difference may have overflowed where those of both have not.
  least = jnp.maximum(lower(x), lower(y))
  middle, reach = interval_error(least, jnp.maximum(upper(x), upper(y)))
  keeps = offset == 0
  if not x.relu.startswith("box") and (x.correlated or y.correlated):
    keeps = keeps | (offset < reach)
  kept = _mixture(x, y, jnp.where(keeps, slope, 0))
  return relax(
      kept,
      slope=jnp.where(keeps, 1.0, 0.0).astype(reach.dtype),
      offset=jnp.where(keeps, offset, middle),
      error=jnp.where(keeps, offset, reach),
      symbol=symbol,
  )


def _mixture(
    x: HybridZonotope, y: HybridZonotope, share: Array
) -> HybridZonotope:
  """share · x + (1 - share) · y; exactly one of both where that is 1 or 0."""
  rest = 1 - share
  magnitude = _weighed(jnp.abs(x.center) + radius(x), share)
  magnitude = magnitude + _weighed(jnp.abs(y.center) + radius(y), rest)
  correlated = _summed(
      x, y, lambda block: generators.weigh(block, share),
      lambda block: generators.weigh(block, rest),
  )
  symbols = sum(map(generators.terms_summed, correlated.values()))
  dtype = magnitude.dtype
  slack = 2 * rounding.elementary(dtype) * magnitude
  slack = slack + rounding.absolute(dtype, 2 * (1 + symbols))
  exact = (share == 0) | (share == 1)
  uncorrelated = lax.stop_gradient(jnp.where(exact, 0, slack))
  for own, weight in ((x.uncorrelated, share), (y.uncorrelated, rest)):
    if own is not None:
      uncorrelated = uncorrelated + _weighed(sound(own), weight)
  return dataclasses.replace(
      x,
      center=_weighed(x.center, share) + _weighed(y.center, rest),
      uncorrelated=uncorrelated,
      correlated=correlated,
  )


def _multiply(
    x: HybridZonotope, y: HybridZonotope, dtype, symbol: str | None
) -> HybridZonotope:
  reach_x, reach_y = radius(x), radius(y)
  magnitude = (jnp.abs(x.center) + reach_x) * (jnp.abs(y.center) + reach_y)
  correlated = _summed(
      x, y, lambda block: generators.scale(block, y.center),
      lambda block: generators.scale(block, x.center),
  )
  # Three roundings of each number here and one of a run's product, with those of
  # the errors' own sums.
  symbols = sum(map(generators.terms_summed, correlated.values()))
  slack = 4 * rounding.elementary(dtype) * magnitude
  slack = slack + rounding.absolute(dtype, 2 * (1 + symbols))
  if not precision.for_losses.value:
    slack = jnp.where(magnitude < rounding.largest(dtype), slack, jnp.nan)
  slack = lax.stop_gradient(slack)
  uncorrelated = slack
  for own, other in ((x.uncorrelated, y), (y.uncorrelated, x)):
    if own is not None:
      uncorrelated = uncorrelated + jnp.abs(other.center) * sound(own)
  fresh = reach_x * reach_y
  kept = dataclasses.replace(
      x,
      center=x.center * y.center,
      uncorrelated=uncorrelated,
      correlated=correlated,
  )
  ends = [a * b for a in (lower(x), upper(x)) for b in (lower(y), upper(y))]
  middle, reach = interval_error(
      functools.reduce(jnp.minimum, ends) - slack,
      functools.reduce(jnp.maximum, ends) + slack,
  )
  # By rule `box` what is kept must be tighter as a whole.
  keeping = not x.relu.startswith("box") and bool(correlated)
  kept_error = fresh if keeping else fresh + radius(kept)
  keeps = (fresh == 0) | (kept_error < reach)
  return relax(
      kept,
      slope=jnp.where(keeps, 1.0, 0.0).astype(reach.dtype),
      offset=jnp.where(keeps, 0, middle),
      error=jnp.where(keeps, fresh, reach),
      symbol=symbol,
  )


def _summed(
    x: HybridZonotope, y: HybridZonotope, of_x: Callable[[Block], Block],
    of_y: Callable[[Block], Block],
) -> dict[str, Block]:
  """The blocks of both, each as it counts; those of one name are added."""
  correlated = {name: of_x(block) for name, block in x.correlated.items()}
  for name, block in y.correlated.items():
    known, own = correlated.get(name), of_y(block)
    correlated[name] = own if known is None else merging.add(known, own)
  return correlated


def _weighed(values: Array, weight: Array) -> Array:
  """weight · values; 0 where the weight is, even of what has overflowed."""
  return jnp.where(weight == 0, 0, weight * values)
