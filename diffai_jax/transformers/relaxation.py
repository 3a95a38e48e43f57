"""Nonlinear functions as a slope plus an interval: one rule serves them all.

If f(x) - s·x lies in [o - e, o + e] for every x within a variable's bounds,
then ⟨s·c + o, |s|·r + e, s·g⟩ covers f, at the same values of the symbols: for a
point x = c + r·β + Σ g_j·e_j of the element, f(x) = s·x + d with |d - o| ≤ e, and
|s·r·β| ≤ |s|·r. This is a hybrid zonotope's affine transformer followed by fresh
error e. The slope is a free choice; what a rule proves is e.

In a hybrid zonotope the fresh error stays uncorrelated. In a pure zonotope all
uncorrelated error becomes new noise symbols, one a variable (`correlate_all`).
"""

import dataclasses

from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, radius, sound
from diffai_jax.kernels import precision
from diffai_jax.transformers.correlation import correlate_all
from diffai_jax.types import Array


def relax(
    x: HybridZonotope,
    slope: Array,
    offset: Array,
    error: Array,
    symbol: str | None,
) -> HybridZonotope:
  """The element ⟨s·c + o, |s|·r + e, s·g⟩ of this file, rounding allowed for.

  Slopes 0 and, with offset and error 0, 1 are exact and add nothing;
  a variable of slope 0 depends on nothing any more, not even on bounds that
  have overflowed. Other slopes round once in s·c, s·r, s·g, and once in adding
  the offset; a smallest normal number for each covers what underflows.

  Args:
    x: over [...].
    slope, offset, error: s, o and e ≥ 0, [B, ...] each; f(x) - s·x within
      o ± e must hold for these floating-point numbers.
    symbol: name of the fresh error's symbols, if `x.zonotope`; None makes one
      that nothing else has.

  Raises:
    ValueError: if x is a pure zonotope and has symbols of that name already.
  """
  x = precision.in_one_type(x)
  slope, error = jnp.asarray(slope), jnp.asarray(error)
  center = _times(slope, x.center) + offset
  uncorrelated = error
  if x.uncorrelated is not None:
    uncorrelated = _times(jnp.abs(slope), sound(x.uncorrelated)) + error
  exact = (slope == 0) | ((slope == 1) & (offset == 0) & (error == 0))
  magnitude = _times(jnp.abs(slope), jnp.abs(x.center) + radius(x))
  magnitude = magnitude + jnp.abs(offset) + error
  slack = 2 * rounding.elementary(center.dtype) * magnitude
  symbols = sum(map(generators.terms_summed, x.correlated.values()))
  slack = slack + rounding.absolute(center.dtype, 1 + symbols)
  uncorrelated = uncorrelated + lax.stop_gradient(jnp.where(exact, 0, slack))
  result = dataclasses.replace(
      x,
      center=center,
      uncorrelated=uncorrelated,
      correlated={
          name: generators.weigh(block, slope)
          for name, block in x.correlated.items()
      },
  )
  return correlate_all(result, symbol) if x.zonotope else result


def interval_error(low: Array, high: Array) -> tuple[Array, Array]:
  """(offset, error) of the interval [low, high], sound to the last bit."""
  middle = (low + high) / 2
  reach = jnp.maximum(high - middle, middle - low)
  slack = rounding.elementary(middle.dtype) * reach
  slack = slack + jnp.where(high > low, 2 * rounding.tiny(middle.dtype), 0)
  return middle, reach + lax.stop_gradient(slack)


def _times(slope: Array, values: Array) -> Array:
  return jnp.where(slope == 0, 0, slope * values)
