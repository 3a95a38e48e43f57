"""Smooth activations, and the rules of all curves: an interval, and a line.

Interval rule, for elements of ReLU rule `box` or without generators: the
function's range over [l, u], which is [f(l), f(u)] where it is monotone.

Linear rule, for the other elements: a slope s and the range of f(x) - s·x (see
`relaxation`), so that generators are kept. Two arguments bound that range over
the whole real line:

- Convex f (softplus, ELU): f(x) - s·x is largest at l or u. With s = f'(p), p any
  point of [l, u], such as the middle, it is at least f(p) - s·p: the graph lies
  above its tangent. (Concave f: the other way round.)
- f whose slope is least at l or u (sigmoid, tanh, erf, SELU: f' rises, then falls):
  with s = min(f'(l), f'(u)) the difference has slope f'(x) - s ≥ 0, so it goes
  from f(l) - s·l up to f(u) - s·u (Singh et al. 2018, "Fast and effective
  robustness certification", theorem 3.2).
- f with |f''| ≤ M (GELU, SiLU, whose slope falls, rises and falls): between two
  neighbours of a grid of step h, f(x) - s·x is off from the line through its values
  there by at most M·h²/8, whatever s; so its range is that of the values, wider by
  as much.

Where the linear rule's error would not be less than the interval's, or is not
finite, the interval rule is taken: each is sound, so any choice is.

Rounding: implementations of exp, tanh, erf are off by a few units in the last
place. `_ULPS` units of the largest value that enters are added on either side; and
`_ULPS_OF_ONE` units of 1 (GELU: of the argument too), for formulae that pass
through numbers near 1 and cancel them, as log(1 + exp(x)) or exp(x) - 1 do. The
same allowance covers a concrete run, by JAX, NumPy or PyTorch (tested with
NumPy's formulae). What underflows is covered by smallest normal numbers.
"""

import dataclasses
import functools
import math
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.kernels import precision
from diffai_jax.transformers.dispatch import (
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.relaxation import interval_error, relax
from diffai_jax.types import Array

_ULPS = 32
_ULPS_OF_ONE = 8
_PIECES = 8  # Of `grid`.
# SELU's constants (Klambauer et al. 2017).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
# Where GELU and SiLU are least, and a number below the value there.
_GELU_BOTTOM = -0.7517915246935645
_GELU_LEAST = -0.16997120747990369
_GELU_TANH_BOTTOM = -0.7524614220710163
_GELU_TANH_LEAST = -0.17004075057125415
_SILU_BOTTOM = -1.2784645427610738
_SILU_LEAST = -0.27846454276107396

# Curves by the name of their transformer: what lines are made of, too (`lines`).
CURVES: dict[str, "Curve"] = {}

# (f, l, u) -> (slope, least and largest value of f(x) - slope·x on [l, u]).
Line = Callable[["Curve", Array, Array], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class Curve:
  """What the rules need to know of a function of one variable.

  Attributes:
    function: f, elementwise.
    derivative: f', or None without a linear rule.
    linear: which argument of this file bounds f(x) - s·x, or None.
    bottom: (x, f(x)) where f is least, falling before and rising behind; None if
      f only rises or only falls.
    straight: the slope of f on x ≥ 0, if it is a line there.
    touch: where a tangent touches f, by l and u.
    bend: M of this file, for f whose values on a grid bound it.
    stationary: the places where f(x) - s·x may be least or largest inside of an
      interval, by s: those with f'(x) = s, and kinks. Where there is none, any
      number or NaN. None if they have no formula (see `bend`).
    domain: whether f is defined on all of [l, u], by l and u; None is everywhere.
    wanted: what the domain is, for a message.
    lost: what a value may lose where its argument underflows, by the argument.
    scale: the largest number that a formula of f passes through, as a function
      of the argument.
    growth: how much of its argument's relative error a value may show, as a
      function of the argument.
  """

  function: Callable[[Array], Array]
  derivative: Callable[[Array], Array] | None = None
  linear: Line | None = None
  bottom: tuple[float, float] | None = None
  straight: float | None = None
  touch: Callable[[Array, Array], Array] = lambda low, high: (low + high) / 2
  bend: float | None = None
  stationary: Callable[[Array], tuple[Array, ...]] | None = None
  domain: Callable[[Array, Array], Array] | None = None
  wanted: str = ""
  lost: Callable[[Array], Array] = jnp.zeros_like
  scale: Callable[[Array], Array] = jnp.ones_like
  growth: Callable[[Array], Array] = jnp.ones_like


def tangent(f: Curve, low: Array, high: Array):
  """Convex f: the tangent at `touch`.

  Any slope is sound. This one carries no gradient: where it falls, its
  derivative times a wide interval would drown all others.
  """
  slope, touched, ends = tangent_and_ends(f, low, high)
  return slope, touched, jnp.maximum(*ends)


def tangent_above(f: Curve, low: Array, high: Array):
  """Concave f: as `tangent`, which is above."""
  slope, touched, ends = tangent_and_ends(f, low, high)
  return slope, jnp.minimum(*ends), touched


def tangent_and_ends(f: Curve, low: Array, high: Array):
  """The slope s of a tangent; f(x) - s·x where it touches, and at l and u."""
  place = f.touch(low, high)
  slope = lax.stop_gradient(f.derivative(place))
  ends = (f.function(low) - slope * low, f.function(high) - slope * high)
  return slope, f.function(place) - slope * place, ends


def grid(f: Curve, low: Array, high: Array):
  """f with |f''| ≤ M: the chord's slope, and values between."""
  width = high - low
  narrow = width < 1e4 * jnp.finfo(low.dtype).tiny ** 0.5
  rise = f.function(high) - f.function(low)
  slope = jnp.where(narrow, 0, rise / jnp.where(narrow, 1, width))
  slope = lax.stop_gradient(slope)
  return slope, *range_on_grid(f, slope, low, high, _PIECES)


def range_on_grid(
    f: Curve, slope: Array, low: Array, high: Array, pieces: int
) -> tuple[Array, Array]:
  """What f(x) - s·x on [l, u] is at least and at most, |f''| ≤ M.

  Args:
    f: with M = f.bend.
    slope, low, high: s, l and u, [...] each.
    pieces: of the grid.
  """
  share = jnp.linspace(0, 1, pieces + 1, dtype=low.dtype)
  share = share.reshape((-1,) + (1,) * low.ndim)
  places = low * (1 - share) + high * share
  values = f.function(places) - slope * places
  # Steps are not all of one length in floats.
  between = f.bend / 8 * jnp.square(1.01 * (high - low) / pieces)
  return values.min(axis=0) - between, values.max(axis=0) + between


def least_slope(f: Curve, low: Array, high: Array):
  """f whose slope is least at an end: f(x) - s·x rises from l to u."""
  slope = jnp.minimum(f.derivative(low), f.derivative(high))
  slope = slope * (1 - _ULPS * jnp.finfo(low.dtype).eps)  # Not above any f'.
  return slope, f.function(low) - slope * low, f.function(high) - slope * high


def _range(f: Curve, low: Array, high: Array) -> tuple[Array, Array]:
  """The least and the largest value of f on [l, u]."""
  at_low, at_high = f.function(low), f.function(high)
  if f.bottom is None:
    return jnp.minimum(at_low, at_high), jnp.maximum(at_low, at_high)
  place, least = f.bottom
  inside = (low < place) & (place < high)
  return (jnp.where(inside, least, jnp.minimum(at_low, at_high)),
          jnp.maximum(at_low, at_high))


def allowance(f: Curve, low: Array, high: Array) -> Array:
  """What f's values on [l, u] may be off by, however f is computed."""
  unit = _ULPS * float(jnp.finfo(low.dtype).eps)
  tiny = _ULPS * float(jnp.finfo(low.dtype).tiny)
  values = jnp.abs(f.function(low)) * f.growth(low)
  values = values + jnp.abs(f.function(high)) * f.growth(high)
  if f.bottom is not None:
    values = values + abs(f.bottom[1])
  values = values + _ULPS_OF_ONE / _ULPS * jnp.maximum(f.scale(low), f.scale(high))
  slack = unit * values + tiny + jnp.maximum(f.lost(low), f.lost(high))
  return lax.stop_gradient(slack)


def allowance_of_slope(
    f: Curve, slope: Array, low: Array, high: Array
) -> Array:
  """What s·x, and where a tangent of that slope touches, may be off by."""
  unit = _ULPS * float(jnp.finfo(low.dtype).eps)
  # A slope that underflowed is off by a smallest normal number.
  reach = jnp.abs(slope) * jnp.maximum(f.growth(low), f.growth(high))
  reach = reach + jnp.finfo(low.dtype).tiny / jnp.finfo(low.dtype).eps
  reach = reach * (jnp.abs(low) + jnp.abs(high))
  return lax.stop_gradient(unit * reach)


def bound(
    f: Curve, x: HybridZonotope, symbol: str | None
) -> HybridZonotope:
  """f of an element, by the rules of this file."""
  x = precision.in_one_type(x)
  low, high = lower(x), upper(x)
  if f.domain is not None:
    defined = f.domain(low, high)
    known = ~(jnp.isnan(low) | jnp.isnan(high))  # NaN bounds stay NaN.
    precision.refuse(
        known & ~defined, f"is a bound of an input that {f.wanted}",
        jnp.where(jnp.abs(low) < jnp.abs(high), low, high),
    )
    low, high = jnp.where(defined, low, 1), jnp.where(defined, high, 1)
  slack = allowance(f, low, high)
  least, largest = _range(f, low, high)
  offset, error = interval_error(least - slack, largest + slack)
  slope = jnp.zeros_like(offset)

  if not x.relu.startswith("box") and x.correlated and f.linear is not None:
    steep, least, largest = f.linear(f, low, high)
    slack = slack + allowance_of_slope(f, steep, low, high)
    offset_kept, error_kept = interval_error(least - slack, largest + slack)
    better = error_kept < error  # False for NaN.
    slope = jnp.where(better, steep, slope)
    offset = jnp.where(better, offset_kept, offset)
    error = jnp.where(better, error_kept, error)
  if f.straight is not None:
    line = low >= 0
    slope = jnp.where(line, f.straight, slope)
    offset = jnp.where(line, 0, offset)
    error = jnp.where(line, 0, error)
  if f.domain is not None:
    offset, error = (
        jnp.where(defined, values, jnp.nan) for values in (offset, error)
    )
  return relax(x, slope, offset, error, symbol)


def curve_transformer(
    name: str, doc: str, f: Curve,
    concrete: Callable[[Array], Array] | None = None,
) -> Callable:
  """The singledispatch transformer of a curve.

  Args:
    name, doc: its own.
    f: the curve.
    concrete: what arrays are given to; None is `f.function`.
  """
  concrete = concrete or f.function
  CURVES[name] = f

  @functools.singledispatch
  def transform(x, *, symbol: str | None = None):
    require_array(x, name)
    return concrete(jnp.asarray(x))

  @transform.register
  def _(x: HybridZonotope, *, symbol: str | None = None) -> HybridZonotope:
    return bound(f, x, symbol)

  register_parts(transform)
  transform.__name__ = transform.__qualname__ = name
  transform.__doc__ = f"""{doc}

  Elementwise, by the rules of this file.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if an element is a pure zonotope with symbols of that name, or
      known to have points where the function is not defined. Where that is
      traced, the element's bounds are NaN there.
    TypeError: for any other kind.
  """
  return transformer(transform)


def _elu_derivative(x: Array) -> Array:
  return jnp.exp(jnp.minimum(x, 0))


def _selu_derivative(x: Array) -> Array:
  falling = _SELU_ALPHA * jnp.exp(jnp.minimum(x, 0))
  return _SELU_SCALE * jnp.where(x > 0, 1, falling)


def _tanh_derivative(x: Array) -> Array:
  """1 - tanh² without cancellation."""
  return 4 * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x)


def _logit(share: Array) -> Array:
  return jnp.log(share) - jnp.log1p(-share)


def _where_sigmoid_rises_by(slope: Array) -> tuple[Array, Array]:
  """σ' = σ·(1 - σ), so σ is the smaller root of σ² - σ + s, or the larger."""
  root = jnp.sqrt(jnp.maximum(1 - 4 * slope, 0))
  place = _logit(2 * slope / (1 + root))
  return place, -place


def _where_tanh_rises_by(slope: Array) -> tuple[Array, Array]:
  """tanh' = 1 - t², and artanh(t) = log((1 + t)/√(1 - t²))."""
  root = jnp.sqrt(jnp.maximum(1 - slope, 0))
  place = jnp.log1p(root) - jnp.log(slope) / 2
  return place, -place


def _where_erf_rises_by(slope: Array) -> tuple[Array, Array]:
  place = jnp.sqrt(jnp.maximum(-jnp.log(slope * (math.pi**0.5 / 2)), 0))
  return place, -place


elu = curve_transformer(
    "elu", "x for x ≥ 0, exp(x) - 1 below. Convex.",
    Curve(
        jax.nn.elu, _elu_derivative, tangent, straight=1.0,
        stationary=lambda slope: (jnp.log(slope),),
    ),
)
selu = curve_transformer(
    "selu", "λ·x for x ≥ 0, λ·α·(exp(x) - 1) below (Klambauer et al. 2017).",
    Curve(
        jax.nn.selu, _selu_derivative, least_slope, straight=_SELU_SCALE,
        stationary=lambda slope: (
            jnp.log(slope / (_SELU_SCALE * _SELU_ALPHA)), jnp.zeros_like(slope)
        ),
    ),
)
softplus = curve_transformer(
    "softplus", "log(1 + exp(x)). Convex.",
    Curve(
        jax.nn.softplus, jax.nn.sigmoid, tangent,
        stationary=lambda slope: (_logit(slope),),
    ),
)
sigmoid = curve_transformer(
    "sigmoid", "1/(1 + exp(-x)).",
    Curve(
        jax.nn.sigmoid,
        lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x),
        least_slope,
        stationary=_where_sigmoid_rises_by,
    ),
)
tanh = curve_transformer(
    "tanh", "The hyperbolic tangent.",
    Curve(
        jnp.tanh, _tanh_derivative, least_slope,
        stationary=_where_tanh_rises_by,
    ),
)
silu = curve_transformer(
    "silu", "x/(1 + exp(-x)), also called swish. Falls, then rises.",
    Curve(
        jax.nn.silu,
        linear=grid,
        bend=0.5,  # At 0.
        bottom=(_SILU_BOTTOM, _SILU_LEAST),
        # Formulae with tanh(x/2), which is -1 in floats beyond x = -40.
        scale=lambda x: 1 + jnp.clip(-x, min=0, max=40),
        growth=lambda x: 1 + jnp.clip(-x, min=0, max=1e3) / 16,
    ),
)
erf = curve_transformer(
    "erf", "2/√π times the integral of exp(-t²) from 0 to x.",
    Curve(
        lax.erf,
        lambda x: 2 / math.pi**0.5 * jnp.exp(-jnp.square(x)),
        least_slope,
        stationary=_where_erf_rises_by,
    ),
)
GELU, GELU_TANH = (
    Curve(
        functools.partial(jax.nn.gelu, approximate=approximate),
        linear=grid,
        bend=0.85,  # At 0: 0.798, of both.
        bottom=bottom,
        # Times 1 + erf(x/√2), which is 0 in floats beyond x = -20.
        scale=lambda x: 1 + jnp.clip(-x, min=0, max=20),
        # Left of 0; beyond x = -20 it is flat.
        growth=lambda x: 1 + jnp.square(jnp.clip(x, min=-20, max=0)),
    )
    for approximate, bottom in (
        (False, (_GELU_BOTTOM, _GELU_LEAST)),
        (True, (_GELU_TANH_BOTTOM, _GELU_TANH_LEAST)),
    )
)


@transformer
@functools.singledispatch
def gelu(x, approximate: bool = False, *, symbol: str | None = None):
  """x·Φ(x), Φ the normal distribution. Falls, then rises.

  Elementwise, by the rules of this file.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    approximate: by tanh(√(2/π)·(x + 0.044715·x³)), instead of erf.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if an element is a pure zonotope with symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "gelu")
  return jax.nn.gelu(x, approximate=approximate)


register_parts(gelu)


@gelu.register
def _(
    x: HybridZonotope, approximate: bool = False, *, symbol: str | None = None
) -> HybridZonotope:
  return bound(GELU_TANH if approximate else GELU, x, symbol)
