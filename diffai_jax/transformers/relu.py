"""ReLU on hybrid zonotopes (Mirman et al. 2018, section 3.2; paper, section 2).

All rules are a slope s within [0, 1] and an interval (see `relaxation`). ReLU is
convex, so on [l, u] with l < 0 < u the function relu(x) - s·x is largest at an
end, max(-s·l, (1 - s)·u), and it is nowhere negative: relu(x) ≥ 0 = s·0 on the
right, -s·x ≥ 0 on the left. So [0, max(-s·l, (1 - s)·u)] contains it, whatever
the slope; half of that is offset and error.
"""

import functools
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.transformers.dispatch import (
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.relaxation import relax
from diffai_jax.types import Array

_SHRUNK = "box*"  # What names of shrunk rules begin with.
# (l, u) with l < 0 < u -> slope, and offset = error, of the relaxation.
Rule = Callable[[Array, Array], tuple[Array, Array]]


@transformer
@functools.singledispatch
def relu(x, *, symbol: str | None = None):
  """max(x, 0), elementwise.

  On an element, by the rule that `element.relu` names. For upper bound u ≤ 0
  a variable is 0, for lower bound l ≥ 0 it is unchanged: both exact, whatever
  the rule. For l < 0 < u see the rules, and this file for why they are sound.
  An element without generators has nothing to keep: its rule is `box`, exact
  interval arithmetic.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Returns:
    The same kind, the same shapes.

  Raises:
    ValueError: if an element names an unknown rule, or is a pure zonotope with
      symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "relu")
  return jax.nn.relu(x)


register_parts(relu)


@relu.register
def _(x: HybridZonotope, *, symbol: str | None = None) -> HybridZonotope:
  slope, offset = bounded_slope(x)
  return relax(x, slope, offset, offset, symbol)


@transformer
@functools.singledispatch
def leaky_relu(x, negative_slope: float = 0.01, *, symbol: str | None = None):
  """x for x ≥ 0, a·x below, elementwise, with a = negative_slope in [0, 1].

  It is a·x + (1 - a)·relu(x), so each ReLU rule (s, o) is one of it: slope
  a + (1 - a)·s and offset (1 - a)·o. Sound as they are; the slope's own
  rounding, times |x|, is added to the error.

  Args, Returns and Raises as of `relu`; ValueError if a is not in [0, 1].
  """
  require_array(x, "leaky_relu")
  _check_negative_slope(negative_slope)
  return jax.nn.leaky_relu(x, negative_slope)


register_parts(leaky_relu)


@leaky_relu.register
def _(
    x: HybridZonotope,
    negative_slope: float = 0.01,
    *,
    symbol: str | None = None,
) -> HybridZonotope:
  _check_negative_slope(negative_slope)
  slope, offset = bounded_slope(x)
  # Exactly a where x ≤ 0, exactly 1 where x ≥ 0.
  share = jnp.where(slope == 1, 1, negative_slope + (1 - negative_slope) * slope)
  share = jnp.where(slope == 0, jnp.asarray(negative_slope, share.dtype), share)
  magnitude = jnp.maximum(jnp.abs(lower(x)), jnp.abs(upper(x)))
  slack = 2 * rounding.elementary(share.dtype) * (magnitude + offset)
  crossing = offset != 0
  slack = lax.stop_gradient(jnp.where(crossing, slack, 0))
  offset = (1 - negative_slope) * offset
  return relax(x, share, offset, offset + slack, symbol)


def _check_negative_slope(negative_slope: float) -> None:
  if not 0 <= negative_slope <= 1:
    raise ValueError(
        f"the negative slope of leaky_relu is {negative_slope}; it must be"
        f" within 0 and 1"
    )


def bounded_slope(x: HybridZonotope) -> tuple[Array, Array]:
  """The slope and the offset = error of ReLU on an element, by its rule.

  Bounds that are NaN take the middle branch and stay NaN.
  """
  rule = _rule(x)
  low, high = lower(x), upper(x)
  active, dead = low >= 0, high <= 0
  settled = active | dead
  # Rules see only l < 0 < u, so that no gradient meets a division by 0.
  slope, offset = rule(
      jnp.where(settled, -1, low), jnp.where(settled, 1, high)
  )
  slope = jnp.where(active, 1, jnp.where(dead, 0, slope))
  # Half of the smallest numbers is lost to underflow.
  offset = offset + rounding.tiny(low.dtype)
  return slope, jnp.where(settled, 0, offset)


def _rule(x: HybridZonotope) -> Rule:
  """The rule that an element names; without generators all are `box`."""
  if x.relu.startswith(_SHRUNK):
    share = float(x.relu.removeprefix(_SHRUNK))
    return lambda low, high: _box(low, share * high)
  if x.relu not in RULES:
    known = ", ".join(RULES)
    raise ValueError(f"unknown ReLU rule {x.relu!r}; known: {known}")
  return RULES[x.relu] if x.correlated else _box


def shrunk_rule(factor: float) -> str:
  """The name of a rule `box` with [0, factor·u] instead of [0, u].

  Below 1 it is not sound: it is for losses (`goals.Shrunk`), and no region that
  certifies has it.
  """
  return f"{_SHRUNK}{factor!r}"


def _box(low: Array, high: Array) -> tuple[Array, Array]:
  """Rule `box`: slope 0, the interval [0, u]; generators are dropped."""
  return jnp.zeros_like(low), high / 2


def _switch(low: Array, high: Array) -> tuple[Array, Array]:
  """Rule `switch`: slope 1 where -l ≤ u, [0, -l] added; else as `box`."""
  slope = jnp.where(-low > high, 0.0, 1.0).astype(low.dtype)
  return slope, jnp.where(slope == 0, high, -low) / 2


def _smooth(low: Array, high: Array) -> tuple[Array, Array]:
  """Rule `smooth`: `switch`'s slope 1 and `box` in shares 1 - t and t.

  With t = -l/(u - l + 1e-4) the slope is 1 - t, and the interval is
  [0, (1 - t)·(-l) + t·u]: sound for every t, since the function
  (1 - t)·(relu(x) - x) + t·relu(x) lies in it. The 1e-4 is DiffAI v3's; it keeps
  the derivative small where the bounds meet at 0.
  """
  slope = 1 - -low / (high - low + 1e-4)
  offset = (slope * -low + (1 - slope) * high) / 2
  return slope, _widened(offset, slope)


def _deepz(low: Array, high: Array) -> tuple[Array, Array]:
  """Rule `deepz`: slope λ = u/(u - l), the smallest area (Singh et al. 2018)."""
  slope = _chord(low, high)
  offset = jnp.maximum(slope * -low, (1 - slope) * high) / 2
  return slope, _widened(offset, slope)


def _chord(low: Array, high: Array) -> Array:
  """u/(u - l); 0 where u - l is so small that its square underflows.

  There the derivative would not be finite; any slope within [0, 1] is sound.
  """
  narrow = high - low < 1e4 * jnp.finfo(low.dtype).tiny ** 0.5
  return jnp.where(narrow, 0, high / jnp.where(narrow, 1, high - low))


def _widened(offset: Array, slope: Array) -> Array:
  """An offset whose computation rounded, unless the slope made it exact."""
  slack = rounding.elementary(offset.dtype) * offset
  slack = 2 * slack + rounding.absolute(offset.dtype, 1)
  return offset + lax.stop_gradient(jnp.where(slope == 0, 0, slack))


RULES: dict[str, Rule] = {
    "box": _box,
    "switch": _switch,
    "smooth": _smooth,
    "deepz": _deepz,
}
