"""Smooth activations: an interval rule for all, a linear rule for monotone ones.

Interval rule, for elements of ReLU rule `box` or without generators: the
function's range over [l, u], which is [f(l), f(u)] where it is monotone.

Linear rule, for the other elements: a slope s and the range of f(x) - s·x (see
`relaxation`), so that generators are kept. Two arguments bound that range over
the whole real line:

- Convex f (softplus, ELU): f(x) - s·x is largest at l or u. With s = f'(p), p the
  middle of [l, u], it is at least f(p) - s·p: the graph lies above its tangent.
- f whose slope is least at l or u (sigmoid, tanh, SELU: f' rises, then falls):
  with s = min(f'(l), f'(u)) the difference has slope f'(x) - s ≥ 0, so it goes
  from f(l) - s·l up to f(u) - s·u (Singh et al. 2018, "Fast and effective
  robustness certification", theorem 3.2).

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
# SELU's constants (Klambauer et al. 2017).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
# Where GELU is least, and a number below its value there.
_GELU_BOTTOM = -0.7517915246935645
_GELU_LEAST = -0.16997120747990369

# (f, l, u) -> (slope, least and largest value of f(x) - slope·x on [l, u]).
_Linear = Callable[["_Activation", Array, Array], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class _Activation:
  """What the rules need to know of a function.

  Attributes:
    function: f, elementwise.
    derivative: f', or None without a linear rule.
    linear: which argument of this file bounds f(x) - s·x, or None.
    bottom: (x, f(x)) where f is least, or None if f is nowhere falling.
    straight: the slope of f on x ≥ 0, if it is a line there.
    scale: the largest number that a formula of f passes through, as a function
      of the argument.
    growth: how much of its argument's relative error a value may show, as a
      function of the argument.
  """

  function: Callable[[Array], Array]
  derivative: Callable[[Array], Array] | None = None
  linear: _Linear | None = None
  bottom: tuple[float, float] | None = None
  straight: float | None = None
  scale: Callable[[Array], Array] = jnp.ones_like
  growth: Callable[[Array], Array] = jnp.ones_like


def _tangent(f: _Activation, low: Array, high: Array):
  """Convex f: the tangent at the middle.

  Any slope is sound. This one carries no gradient: where it falls, its
  derivative times a wide interval would drown all others.
  """
  middle = (low + high) / 2
  slope = lax.stop_gradient(f.derivative(middle))
  ends = jnp.maximum(f.function(low) - slope * low,
                     f.function(high) - slope * high)
  return slope, f.function(middle) - slope * middle, ends


def _least_slope(f: _Activation, low: Array, high: Array):
  """f whose slope is least at an end: f(x) - s·x rises from l to u."""
  slope = jnp.minimum(f.derivative(low), f.derivative(high))
  slope = slope * (1 - _ULPS * jnp.finfo(low.dtype).eps)  # Not above any f'.
  return slope, f.function(low) - slope * low, f.function(high) - slope * high


def _range(f: _Activation, low: Array, high: Array) -> tuple[Array, Array]:
  """The least and the largest value of f on [l, u]."""
  at_low, at_high = f.function(low), f.function(high)
  if f.bottom is None:
    return at_low, at_high
  place, least = f.bottom
  inside = (low < place) & (place < high)
  return (jnp.where(inside, least, jnp.minimum(at_low, at_high)),
          jnp.maximum(at_low, at_high))


def _bound(
    f: _Activation, x: HybridZonotope, symbol: str | None
) -> HybridZonotope:
  x = precision.in_one_type(x)
  low, high = lower(x), upper(x)
  unit = _ULPS * float(jnp.finfo(low.dtype).eps)
  tiny = _ULPS * float(jnp.finfo(low.dtype).tiny)
  values = jnp.abs(f.function(low)) * f.growth(low)
  values = values + jnp.abs(f.function(high)) * f.growth(high)
  if f.bottom is not None:
    values = values + abs(f.bottom[1])
  values = values + _ULPS_OF_ONE / _ULPS * jnp.maximum(f.scale(low), f.scale(high))
  slack = lax.stop_gradient(unit * values + tiny)
  least, largest = _range(f, low, high)
  offset, error = interval_error(least - slack, largest + slack)
  slope = jnp.zeros_like(offset)

  if x.relu != "box" and x.correlated and f.linear is not None:
    steep, least, largest = f.linear(f, low, high)
    reach = jnp.abs(steep) * (jnp.abs(low) + jnp.abs(high))
    slack = lax.stop_gradient(unit * (values + reach) + tiny)
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
  return relax(x, slope, offset, error, symbol)


def _transformer(name: str, doc: str, f: _Activation) -> Callable:
  """The singledispatch transformer of an activation."""

  @functools.singledispatch
  def transform(x, *, symbol: str | None = None):
    require_array(x, name)
    return f.function(x)

  @transform.register
  def _(x: HybridZonotope, *, symbol: str | None = None) -> HybridZonotope:
    return _bound(f, x, symbol)

  register_parts(transform)
  transform.__name__ = transform.__qualname__ = name
  transform.__doc__ = f"""{doc}

  Elementwise, by the rules of this file.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Raises:
    ValueError: if an element is a pure zonotope with symbols of that name.
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


elu = _transformer(
    "elu", "x for x ≥ 0, exp(x) - 1 below. Convex.",
    _Activation(jax.nn.elu, _elu_derivative, _tangent, straight=1.0),
)
selu = _transformer(
    "selu", "λ·x for x ≥ 0, λ·α·(exp(x) - 1) below (Klambauer et al. 2017).",
    _Activation(
        jax.nn.selu, _selu_derivative, _least_slope, straight=_SELU_SCALE
    ),
)
softplus = _transformer(
    "softplus", "log(1 + exp(x)). Convex.",
    _Activation(jax.nn.softplus, jax.nn.sigmoid, _tangent),
)
sigmoid = _transformer(
    "sigmoid", "1/(1 + exp(-x)).",
    _Activation(
        jax.nn.sigmoid,
        lambda x: jax.nn.sigmoid(x) * jax.nn.sigmoid(-x),
        _least_slope,
    ),
)
tanh = _transformer(
    "tanh", "The hyperbolic tangent.",
    _Activation(jnp.tanh, _tanh_derivative, _least_slope),
)
gelu = _transformer(
    "gelu",
    "x·Φ(x), Φ the normal distribution (by erf). Falls, then rises: interval"
    " rule only.",
    _Activation(
        functools.partial(jax.nn.gelu, approximate=False),
        bottom=(_GELU_BOTTOM, _GELU_LEAST),
        # Times 1 + erf(x/√2), which is 0 in floats beyond x = -20.
        scale=lambda x: 1 + jnp.clip(-x, min=0, max=20),
        # Left of 0; beyond x = -20 it is flat.
        growth=lambda x: 1 + jnp.square(jnp.clip(x, min=-20, max=0)),
    ),
)
