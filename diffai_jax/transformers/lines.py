"""A line below and a line above a function of one variable, on an interval.

Backward bounds take both, each with a slope of its own; a hybrid zonotope takes a
parallel pair (`relaxation`). One rule serves all functions: whatever the slope s,

  f(x) ≥ s·x + min over [l, u] of (f - s·x),   f(x) ≤ s·x + max over [l, u] of it,

and that difference is least and largest at an end, where f' is s, or at a kink
(`smooth.Curve.stationary`, and the kinks of chains of lines); for functions
without a formula for those places, on a grid (`smooth.range_on_grid`). A place that
is off by its own rounding δ changes the least value by at most |f''|·δ²/2, far
less than the allowance for the function's values. So *any* slope is sound: it may
be chosen badly, or by an optimiser, and what is returned holds.

ReLU: on l < 0 < u its lower line is s·x, s within [0, 1], exactly; the upper one
has the chord's slope u/(u - l), and its offset max(-s·l, (1 - s)·u) is rounded up.

Where f is one line on all of [l, u] both lines are that one.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.transformers import curves  # Whose functions are in CURVES.
from diffai_jax.transformers.smooth import (
    CURVES,
    GELU,
    GELU_TANH,
    Curve,
    allowance,
    allowance_of_slope,
    range_on_grid,
)
from diffai_jax.types import Array

_PIECES = 24  # Of a grid.
_SMOOTH = frozenset((*CURVES, "gelu"))
_KINKED = frozenset(("leaky_relu", "clip", "absolute"))
LINED = frozenset(("relu", *_SMOOTH, *_KINKED))
del curves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lines:
  """a·x + b ≤ f(x) ≤ a'·x + b' for x within the bounds; arrays of one shape.

  They hold for these floating-point numbers in exact arithmetic, and for every
  evaluation of f in floats.

  Attributes:
    lower_slope, lower_offset: a and b.
    upper_slope, upper_offset: a' and b'.
  """

  lower_slope: Array
  lower_offset: Array
  upper_slope: Array
  upper_offset: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slopes:
  """Slopes to choose from.

  Attributes:
    lower, upper: what is taken if nobody chooses.
    least, most: between which it is worth to look; any others are sound, too.
  """

  lower: Array
  upper: Array
  least: Array
  most: Array


def is_open(
    name: str, arrays: dict, options: dict, low: Array, high: Array
) -> Array:
  """Where a function is no single line on [l, u]: where bounds matter, bool."""
  if name in ("relu", "leaky_relu", "absolute"):
    return ~((low >= 0) | (high <= 0))
  if name == "clip":
    least, most = _limits(arrays, low)
    return ~((high <= least) | (low >= most) | ((low >= least) & (high <= most)))
  curve = _curve(name, options)
  settled = low == high
  if curve.straight is not None:
    settled = settled | (low >= 0)
  return ~settled


def slopes(
    name: str, arrays: dict, options: dict, low: Array, high: Array
) -> Slopes:
  """Slopes for a function on [l, u]; chosen, so they carry no gradient.

  Args:
    name: of the transformer, one of LINED.
    arrays, options: of its call.
    low, high: l and u, of one shape.
  """
  low, high = lax.stop_gradient((low, high))
  if name in CURVES or name == "gelu":
    return lax.stop_gradient(_curve_slopes(_curve(name, options), low, high))
  function, kinks = _chain(name, arrays, options, low)
  chord = _chord(function, low, high)
  if name == "clip":
    least, most = (jnp.clip(kink, low, high) for kink in kinks)
    # From the lower kink to the right end, from the left end to the upper kink.
    right = _ratio(function(high) - function(least), high - least, chord)
    left = _ratio(function(most) - function(low), most - low, chord)
    below, above = low < kinks[0], high > kinks[1]
    flat = jnp.zeros_like(chord)
    area = jnp.where(high - most > most - low, flat, 1)
    lower = jnp.where(below & above, right, jnp.where(above, chord, jnp.where(
        high > -low + 2 * kinks[0], 1, flat)))
    upper = jnp.where(below & above, left, jnp.where(above, area, chord))
    return Slopes(lower, upper, flat, flat + 1)
  steep = {"relu": 0.0, "absolute": -1.0}.get(name)
  if steep is None:
    steep = options.get("negative_slope", 0.01)
  least = jnp.full_like(low, steep)
  lower = jnp.where(high > -low, 1, least)
  return Slopes(lower, chord, least, jnp.ones_like(low))


def has_free_upper_slope(name: str) -> bool:
  """Whether more than one upper line may be the best."""
  return name in _SMOOTH or name == "clip"


def lines(
    name: str, arrays: dict, options: dict, low: Array, high: Array,
    lower: Array, upper: Array,
) -> Lines:
  """The lines of a function on [l, u] with these slopes; sound for any.

  Args:
    name, arrays, options, low, high: as of `slopes`.
    lower, upper: the slopes; they broadcast with the bounds.
  """
  shape = jnp.broadcast_shapes(
      *(a.shape for a in (low, high, lower, upper))
  )
  low, high, lower, upper = (
      jnp.broadcast_to(a, shape) for a in (low, high, lower, upper)
  )
  if name == "relu":
    return _relu_lines(low, high, lower, upper)
  if name in CURVES or name == "gelu":
    return _curve_lines(_curve(name, options), low, high, lower, upper)
  function, kinks = _chain(name, arrays, options, low)
  return _chain_lines(name, options, function, kinks, low, high, lower, upper)


def _relu_lines(low: Array, high: Array, lower: Array, upper: Array) -> Lines:
  active, dead = low >= 0, high <= 0
  settled = active | dead
  begin, end = jnp.where(settled, -1, low), jnp.where(settled, 1, high)
  upper = jnp.clip(upper, 0, 1)
  offset = jnp.maximum(-upper * begin, (1 - upper) * end)
  dtype = low.dtype
  offset = offset * (1 + rounding.elementary(dtype)) + 2 * rounding.tiny(dtype)
  exact = jnp.where(active, 1, 0).astype(dtype)
  # NaN bounds are none of both, and their offsets stay NaN.
  return Lines(
      jnp.where(settled, exact, jnp.clip(lower, 0, 1)),
      jnp.where(jnp.isnan(low) | jnp.isnan(high), jnp.nan, 0).astype(dtype),
      jnp.where(settled, exact, upper),
      jnp.where(settled, 0, offset),
  )


def _chain(
    name: str, arrays: dict, options: dict, low: Array
) -> tuple[Callable[[Array], Array], Sequence[Array]]:
  """A chain of lines, and where they meet."""
  zero = jnp.zeros_like(low)
  if name == "relu":
    return jax.nn.relu, [zero]
  if name == "absolute":
    return jnp.abs, [zero]
  if name == "leaky_relu":
    slope = options.get("negative_slope", 0.01)
    return lambda x: jnp.where(x >= 0, x, slope * x), [zero]
  least, most = _limits(arrays, low)
  return lambda x: jnp.clip(x, least, most), [least, most]


def _limits(arrays: dict, low: Array) -> tuple[Array, Array]:
  """Those of clip, as arrays of the bounds' shape."""
  least = jnp.asarray(arrays.get("low", -jnp.inf), low.dtype)
  most = jnp.asarray(arrays.get("high", jnp.inf), low.dtype)
  return tuple(jnp.broadcast_to(a, low.shape) for a in (least, most))


def _chain_lines(
    name: str, options: dict, function: Callable[[Array], Array],
    kinks: Sequence[Array], low: Array, high: Array, lower: Array, upper: Array,
) -> Lines:
  pieces = [(low >= 0, 1.0), (high <= 0, -1.0)]  # Of |x|: (where, slope).
  if name == "leaky_relu":
    pieces[1] = (high <= 0, options.get("negative_slope", 0.01))
  if name == "clip":
    least, most = kinks
    pieces = [((low >= least) & (high <= most), 1.0),
              ((high <= least) | (low >= most), 0.0)]
  for where, slope in pieces:
    lower, upper = (jnp.where(where, slope, s) for s in (lower, upper))
  places = [low, high, *(jnp.clip(kink, low, high) for kink in kinks)]
  least, _ = _range(function, lower, places)
  _, largest = _range(function, upper, places)
  # On x itself, and on -x, nothing rounds.
  exact = jnp.zeros_like(low, bool)
  for where, slope in pieces:
    exact = exact | (where & (abs(slope) == 1))
  known = ~(jnp.isnan(low) | jnp.isnan(high))
  exact = exact & known
  return Lines(lower, jnp.where(exact, 0, least),
               upper, jnp.where(exact, 0, largest))


def _range(
    function: Callable[[Array], Array], slope: Array, places: Sequence[Array]
) -> tuple[Array, Array]:
  """The least and largest f(x) - s·x of a chain of lines, of some places."""
  values = [function(place) - slope * place for place in places]
  size = functools.reduce(jnp.maximum, (
      jnp.abs(function(place)) + jnp.abs(slope * place) for place in places
  ))
  # Once for this, and once for a run that multiplies by a slope of leaky ReLU.
  slack = 2 * rounding.elementary(size.dtype) * size
  slack = lax.stop_gradient(slack + 2 * rounding.tiny(size.dtype))
  return (functools.reduce(jnp.minimum, values) - slack,
          functools.reduce(jnp.maximum, values) + slack)


def _curve(name: str, options: dict) -> Curve:
  if name == "gelu":
    return GELU_TANH if options.get("approximate") else GELU
  return CURVES[name]


def _derivative(f: Curve, x: Array) -> Array:
  if f.derivative is not None:
    return f.derivative(x)
  return jax.jvp(f.function, (x,), (jnp.ones_like(x),))[1]


def _inside(f: Curve, low: Array, high: Array):
  """Where f is defined on [l, u]; and bounds, 1 where it is not."""
  if f.domain is None:
    return None, low, high
  defined = f.domain(low, high)
  return defined, jnp.where(defined, low, 1), jnp.where(defined, high, 1)


def _curve_slopes(f: Curve, low: Array, high: Array) -> Slopes:
  """The chord, or tangents at the ends and in the middle: what is tightest there.

  A line's area to the function on an interval is decided by its value in the
  middle; of a few slopes the best is taken for each line.
  """
  _, low, high = _inside(f, low, high)
  middle = low / 2 + high / 2
  candidates = [
      _chord(f.function, low, high),
      *(_derivative(f, place) for place in (
          low, low * 0.75 + high * 0.25, middle, low * 0.25 + high * 0.75, high
      )),
      *_tangents_through_ends(f, low, high),
  ]
  candidates = jnp.stack([jnp.nan_to_num(c) for c in candidates])
  least, largest = jax.vmap(
      lambda slope: _curve_range(f, slope, low, high)
  )(candidates)
  below = candidates * middle + least
  above = candidates * middle + largest
  pick = lambda best: jnp.take_along_axis(candidates, best[None], 0)[0]
  finite = lambda values, other: jnp.where(jnp.isnan(values), other, values)
  return Slopes(
      pick(jnp.argmax(finite(below, -jnp.inf), 0)),
      pick(jnp.argmin(finite(above, jnp.inf), 0)),
      candidates.min(0), candidates.max(0),
  )


def _tangents_through_ends(
    f: Curve, low: Array, high: Array, halvings: int = 12
) -> list[Array]:
  """Slopes of tangents that meet the graph again at an end, found by halving.

  Of functions that bend one way and then the other these are the tightest lines.
  Only slopes: if there is no such tangent, they are of no use, and do no harm.
  """
  found = []
  for fixed, other in ((high, low), (low, high)):
    at = f.function(fixed)
    # Above or below the end: by how much a tangent at p misses it.
    misses = lambda p: f.function(p) + _derivative(f, p) * (fixed - p) - at
    start = misses(other)

    def halve(_, ends):
      near, far = ends
      middle = near / 2 + far / 2
      same = jnp.sign(misses(middle)) == jnp.sign(start)
      return jnp.where(same, middle, near), jnp.where(same, far, middle)

    # At the end itself the tangent misses by nothing, so begin before it.
    last = fixed + (other - fixed) / 64
    near, _ = lax.fori_loop(0, halvings, halve, (other, last))
    found.append(_derivative(f, near))
  return found


def _curve_range(
    f: Curve, slope: Array, low: Array, high: Array
) -> tuple[Array, Array]:
  """What f(x) - s·x is at least and at most on [l, u], but for rounding."""
  if f.stationary is None:
    return range_on_grid(f, slope, low, high, _PIECES)
  places = [low, high]
  for place in lax.stop_gradient(f.stationary(slope)):
    place = jnp.where(jnp.isnan(place), low, place)
    places.append(lax.stop_gradient(jnp.clip(place, low, high)))
  values = [f.function(place) - slope * place for place in places]
  return (functools.reduce(jnp.minimum, values),
          functools.reduce(jnp.maximum, values))


def _curve_lines(
    f: Curve, low: Array, high: Array, lower: Array, upper: Array
) -> Lines:
  defined, low, high = _inside(f, low, high)
  dtype = low.dtype
  if f.straight is not None:
    line = low >= 0
    lower, upper = (jnp.where(line, f.straight, s) for s in (lower, upper))
  slack = allowance(f, low, high)
  least, _ = _curve_range(f, lower, low, high)
  _, largest = _curve_range(f, upper, low, high)
  least = least - slack - allowance_of_slope(f, lower, low, high)
  largest = largest + slack + allowance_of_slope(f, upper, low, high)
  if f.straight == 1:
    least, largest = (jnp.where(line, 0, b) for b in (least, largest))
  if defined is not None:
    least, largest = (
        jnp.where(defined, b, jnp.nan) for b in (least, largest)
    )
  return Lines(lower.astype(dtype), least, upper.astype(dtype), largest)


def _chord(
    function: Callable[[Array], Array], low: Array, high: Array
) -> Array:
  return _ratio(function(high) - function(low), high - low, 0.0)


def _ratio(rise: Array, width: Array, otherwise: Array | float) -> Array:
  """rise/width; something else where the width is nothing."""
  narrow = ~(width > 1e4 * jnp.finfo(width.dtype).tiny ** 0.5)
  return jnp.where(narrow, otherwise, rise / jnp.where(narrow, 1, width))
