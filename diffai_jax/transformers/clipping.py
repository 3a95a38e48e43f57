"""Functions that are lines with kinks: clip, and the absolute value.

f(x) - s·x is a chain of lines too, so on [l, u] it is least and largest at an end
or at a kink: a few values give its range, whatever the slope s (see
`relaxation`). The slope is chosen as the element's ReLU rule chooses ReLU's, from
the chord (f(u) - f(l))/(u - l); on a part that is one line it is that line's, and
the error is 0. Rule `box`, and elements without generators, take the interval.
"""

from collections.abc import Callable, Sequence
import functools

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.kernels import precision
from diffai_jax.transformers.affine_rule import of_one_type
from diffai_jax.transformers.dispatch import (
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.relaxation import interval_error, relax
from diffai_jax.types import Array


@transformer
@functools.singledispatch
def clip(
    x,
    low: Array | None = None,
    high: Array | None = None,
    *,
    symbol: str | None = None,
):
  """min(max(x, low), high), elementwise; by this file's rule on elements.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    low, high: low ≤ high; broadcast against one example [...]. None is no limit.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if low is known to be above high, or an element is a pure
      zonotope with symbols of that name. Where low and high are traced, the
      element's bounds are NaN there.
    TypeError: for any other kind.
  """
  require_array(x, "clip")
  _check_limits(low, high)
  given = [limit for limit in (low, high) if limit is not None]
  dtype = precision.widest(x, *given)
  x, low, high = (
      None if value is None else precision.strongly(value, dtype)
      for value in (x, low, high)
  )
  return jnp.clip(x, low, high)


register_parts(clip)


@clip.register
def _(
    x: HybridZonotope,
    low: Array | None = None,
    high: Array | None = None,
    *,
    symbol: str | None = None,
) -> HybridZonotope:
  _check_limits(low, high)
  limits = [limit for limit in (low, high) if limit is not None]
  if not limits:
    return x
  x, *limits, _ = of_one_type(x, *limits)
  remaining = iter(limits)
  least, most = (
      jnp.asarray(default, x.center.dtype) if limit is None
      else next(remaining) for limit, default in ((low, -jnp.inf), (high, jnp.inf))
  )
  least = jnp.broadcast_to(least, x.center.shape)
  most = jnp.broadcast_to(most, x.center.shape)
  begin, end = lower(x), upper(x)
  # Where one line holds: its slope and offset.
  below, above = (end <= least) & (begin <= end), (begin >= most) & (end >= begin)
  inside = (begin >= least) & (end <= most)
  constant = jnp.where(below, least, most)
  slope, offset, error = _kinked(
      x, lambda v: jnp.clip(v, least, most), begin, end, [least, most],
      settled=below | above | inside,
  )
  slope = jnp.where(below | above, 0, jnp.where(inside, 1, slope))
  offset = jnp.where(below | above, constant, jnp.where(inside, 0, offset))
  error = jnp.where(below | above | inside, 0, error)
  offset = jnp.where(least <= most, offset, jnp.nan)
  return relax(x, slope, offset, error, symbol)


def _check_limits(low: Array | None, high: Array | None) -> None:
  if low is not None and high is not None:
    if precision.is_known(low) and precision.is_known(high):
      low, high = np.asarray(low), np.asarray(high)
      precision.refuse(
          low > high, "is a lower limit of clip above the upper one", low
      )


@transformer
@functools.singledispatch
def absolute(x, *, symbol: str | None = None):
  """|x|, elementwise; by this file's rule on elements.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    symbol: as of `clip`.

  Raises:
    ValueError: if an element is a pure zonotope with symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "absolute")
  return jnp.abs(x)


register_parts(absolute)


@absolute.register
def _(x: HybridZonotope, *, symbol: str | None = None) -> HybridZonotope:
  x = precision.in_one_type(x)
  begin, end = lower(x), upper(x)
  right, left = begin >= 0, end <= 0
  slope, offset, error = _kinked(
      x, jnp.abs, begin, end, [jnp.zeros_like(begin)], settled=right | left
  )
  slope = jnp.where(right, 1, jnp.where(left, -1, slope))
  offset = jnp.where(right | left, 0, offset)
  error = jnp.where(right | left, 0, error)
  return relax(x, slope, offset, error, symbol)


def _kinked(
    x: HybridZonotope,
    function: Callable[[Array], Array],
    begin: Array,
    end: Array,
    kinks: Sequence[Array],
    settled: Array,
) -> tuple[Array, Array, Array]:
  """Slope, offset and error of a chain of lines on [begin, end].

  Args:
    x: the element, whose rule chooses the slope.
    function: the chain, exact in floats.
    begin, end: x's bounds.
    kinks: where its lines meet.
    settled: where the result is not used.
  """
  # No gradient meets a division by 0.
  begin = jnp.where(settled, -1, begin)
  end = jnp.where(settled, 1, end)
  places = [begin, end, *(jnp.clip(kink, begin, end) for kink in kinks)]
  slope = jnp.zeros_like(begin)
  if x.correlated and not x.relu.startswith("box"):
    slope = _slope(x.relu, function, begin, end)
  values = [function(place) - slope * place for place in places]
  size = functools.reduce(jnp.maximum, (
      jnp.abs(function(place)) + jnp.abs(slope * place) for place in places
  ))
  slack = rounding.elementary(size.dtype) * size + rounding.tiny(size.dtype)
  slack = lax.stop_gradient(jnp.where(slope == 0, 0, slack))
  offset, error = interval_error(
      functools.reduce(jnp.minimum, values) - slack,
      functools.reduce(jnp.maximum, values) + slack,
  )
  return slope, offset, error


def _slope(
    rule: str, function: Callable[[Array], Array], begin: Array, end: Array
) -> Array:
  """The chord's slope; for `switch` the steepest or 0, damped for `smooth`."""
  width = end - begin
  narrow = width < 1e4 * jnp.finfo(begin.dtype).tiny ** 0.5
  width = jnp.where(narrow, 1, width)
  if rule == "smooth":
    width = width + 1e-4
  rise = jnp.where(narrow, 0, function(end) - function(begin))
  slope = jnp.clip(rise / width, -1, 1)
  return jnp.round(slope) if rule == "switch" else slope
