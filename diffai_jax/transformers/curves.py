"""Curves that are convex or concave: exp, log, sqrt, 1/x, x².

By the rules of `smooth`: an interval, or a tangent and the ends. The tangent
touches where it is parallel to the chord, which is the line of least error.

Rounding: as in `smooth`, `_ULPS` units in the last place of the values, none of 1
except for log near 1. Of exp(x), which libraries compute as a power of 2 whose
exponent has been rounded, some more for large |x|. Where an argument may be
flushed to 0, log and 1/x are not defined, and a square root may be 0.
"""

from jax import lax
import jax.numpy as jnp

from diffai_jax.transformers.smooth import (
    Curve,
    curve_transformer,
    tangent,
    tangent_above,
    tangent_and_ends,
)
from diffai_jax.types import Array


def _smallest(x: Array) -> float:
  """The smallest number that no arithmetic takes for 0."""
  return float(jnp.finfo(x.dtype).tiny)


def _within(place: Array, low: Array, high: Array) -> Array:
  """Where a tangent touches: chosen, so without a gradient."""
  return lax.stop_gradient(jnp.clip(place, low, high))


def _exp_touch(low: Array, high: Array) -> Array:
  """Parallel to the chord, or less steep: so that the line is above 0 at l."""
  width = high - low
  narrow = width < 1e-3
  mean = -jnp.expm1(-width) / jnp.where(narrow, 1, width)
  place = high + jnp.log(jnp.where(narrow, 1, mean))
  place = jnp.where(narrow, (low + high) / 2, place)
  return _within(jnp.minimum(place, low + 0.99), low, high)


def _log_touch(low: Array, high: Array) -> Array:
  narrow = high - low < 1e-3 * high
  rise = jnp.where(narrow, 1, jnp.log(high) - jnp.log(low))
  place = jnp.where(narrow, (low + high) / 2, (high - low) / rise)
  return _within(place, low, high)


def _sqrt(x: Array) -> Array:
  """Without an infinite gradient at 0."""
  positive = x > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0 * x)


def _sqrt_touch(low: Array, high: Array) -> Array:
  return _within(jnp.square((_sqrt(low) + _sqrt(high)) / 2), low, high)


def _reciprocal_touch(low: Array, high: Array) -> Array:
  mean = jnp.sqrt(jnp.abs(low)) * jnp.sqrt(jnp.abs(high))
  return _within(jnp.where(low > 0, mean, -mean), low, high)


def _reciprocal_line(f: Curve, low: Array, high: Array):
  """Convex right of 0, concave left of it."""
  slope, touched, ends = tangent_and_ends(f, low, high)
  right = low > 0
  return (slope, jnp.where(right, touched, jnp.minimum(*ends)),
          jnp.where(right, jnp.maximum(*ends), touched))


exp = curve_transformer(
    "exp", "The exponential function. Convex.",
    Curve(
        jnp.exp, jnp.exp, tangent,
        touch=_exp_touch,
        scale=jnp.zeros_like,
        growth=lambda x: 1 + jnp.clip(jnp.abs(x), max=1e3) / 16,
        stationary=lambda slope: (jnp.log(slope),),
    ),
)
log = curve_transformer(
    "log", "The natural logarithm, of x > 0. Concave.",
    Curve(
        jnp.log, jnp.reciprocal, tangent_above,
        touch=_log_touch,
        stationary=lambda slope: (1 / slope,),
        domain=lambda low, high: low >= _smallest(low),
        wanted="log wants above 0; bound it from below first, as clip does",
    ),
)
sqrt = curve_transformer(
    "sqrt", "The square root, of x ≥ 0. Concave.",
    Curve(
        _sqrt,
        lambda x: 0.5 / jnp.sqrt(jnp.maximum(x, _smallest(x))),
        tangent_above,
        touch=_sqrt_touch,
        stationary=lambda slope: (0.25 / jnp.square(slope),),
        domain=lambda low, high: low >= 0,
        wanted="sqrt wants at least 0; bound it from below first, as clip does",
        lost=lambda x: jnp.where(
            x < 4 * _smallest(x), 2 * _smallest(x) ** 0.5, 0
        ),
        scale=jnp.zeros_like,
    ),
    concrete=jnp.sqrt,
)
reciprocal = curve_transformer(
    "reciprocal", "1/x, where x is not 0. Convex right of 0, concave left.",
    Curve(
        lambda x: 1 / x, lambda x: -(1 / x) * (1 / x), _reciprocal_line,
        touch=_reciprocal_touch,
        stationary=lambda slope: (
            lax.rsqrt(-slope), -lax.rsqrt(-slope)
        ),
        domain=lambda low, high: (
            (low >= _smallest(low)) | (high <= -_smallest(low))
        ),
        wanted="reciprocal wants on one side of 0; no bounds hold across it",
        scale=jnp.zeros_like,
    ),
)
square = curve_transformer(
    "square", "x². Convex.",
    Curve(
        jnp.square, lambda x: 2 * x, tangent,
        bottom=(0.0, 0.0),
        stationary=lambda slope: (slope / 2,),
        scale=jnp.zeros_like,
    ),
)
