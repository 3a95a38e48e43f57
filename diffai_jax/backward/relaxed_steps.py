"""Calls that are not affine, walked backwards by what bounds them.

A coefficient Λ on y is pulled through a line below y where it is negative, and
through one above where it is positive: with a·x + b ≤ y ≤ a'·x + b',

  Λ·y ≤ (Λ⁺a' + Λ⁻a)·x + Λ⁺b' + Λ⁻b.

- Functions of one variable have the lines of `transformers.lines`.
- A maximum is at least the input w with the largest lower bound; it is that input
  where no other can be larger, and at most the largest upper bound otherwise.
- Of two values, max(x, y) = y + relu(x - y), with bounds of the difference.
- A product is between two pairs of planes (McCormick 1976): with x in [l, u] and y
  in [l', u'], x·y ≥ l·y + l'·x - l·l' and ≥ u·y + u'·x - u·u', and any mixture of
  both; ≤ u·y + l'·x - u·l' and ≤ l·y + u'·x - l·u'.
- Everything else is between the bounds that its own sound transformer gives.

Rounding: one product of a coefficient and a slope is off by less than
4u·|Λ_i|·X, X the input's largest magnitude; offsets hold for their floats.
"""

from collections.abc import Sequence
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.backward.pulled import Pulled, summed
from diffai_jax.backward.windows import Frame, Windows
from diffai_jax.domains import rounding
from diffai_jax.graph import Call
from diffai_jax.kernels.platforms import computed_once
from diffai_jax.transformers import lines as table
from diffai_jax.transformers.lines import Lines
from diffai_jax.transformers.pooling import first_largest, window_choice
from diffai_jax.types import Array

Bounds = tuple[Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LineStep:
  """A function of one variable.

  Attributes:
    call: which one.
    low, high: bounds of the input, [B, 1, ...].
    size: its largest magnitude, likewise.
    slopes: to choose from, likewise.
    lines: with the slopes that are taken if nobody chooses.
    careful: whether rounding is allowed for (static).
  """

  call: Call
  low: Array
  high: Array
  size: Array
  slopes: table.Slopes
  lines: Lines
  careful: bool = dataclasses.field(metadata={"static": True})

  def pull(self, coefficients: Array, chosen: dict | None = None) -> Pulled:
    """As `AffineStep.pull`; `chosen` is of `choices`, [B, S, ...] or [B, 1, ...].

    Of β-CROWN (Wang et al. 2021), `chosen` may also have "beta": numbers s·β that
    are added to the coefficients Λ' on x, [B, S, ...], where s is a sign that x is
    known to have, s·x ≥ 0, and β ≥ 0. Then ⟨Λ', x⟩ ≤ ⟨Λ' + s·β, x⟩ for every run
    whose own x has that sign, whatever β is. That sum needs no allowance: rounding
    is monotonic, so for s = 1 what is computed is at least Λ', and at most for -1.
    """
    lines = self.lines if chosen is None else self._lines(chosen)
    beta = None if chosen is None else chosen.get("beta")
    above, below = jnp.maximum(coefficients, 0), jnp.minimum(coefficients, 0)
    pulled = above * lines.upper_slope + below * lines.lower_slope
    lost = None
    if self.careful:
      lost = lost_in_products(pulled, self.size)
    if beta is not None:
      pulled = pulled + beta
    return Pulled((pulled,), summed(
        above * lines.upper_offset + below * lines.lower_offset, lost
    ))

  def at(self, examples: Array) -> "LineStep":
    """As `AffineStep.at`."""
    return self._each(lambda array: array[examples])

  def frame(self, after: Frame) -> Frame:
    """As `AffineStep.frame`."""
    return after

  def under(self, windows: Windows, examples: Array) -> "LineStep":
    """As `AffineStep.under`."""
    return self._each(
        lambda array: windows.under(array[:, 0], examples)[:, None]
    )

  def _each(self, function) -> "LineStep":
    """The step whose arrays are functions of these."""
    bounds = self.low, self.high, self.size, self.slopes, self.lines
    return LineStep(
        self.call, *jax.tree.map(function, bounds), self.careful
    )

  def choices(self) -> dict[str, Array]:
    """Where between the least and the steepest slope each line is: in [0, 1]."""
    slopes = self.slopes
    width = slopes.most - slopes.least
    share = lambda slope: jnp.clip(
        (slope - slopes.least) / jnp.where(width > 0, width, 1), 0, 1
    )
    chosen = {"lower": share(slopes.lower)}
    if table.has_free_upper_slope(self.call.transformer):
      chosen["upper"] = share(slopes.upper)
    return chosen

  def _lines(self, chosen: dict) -> Lines:
    slopes = self.slopes
    at = lambda share: slopes.least + share * (slopes.most - slopes.least)
    upper = slopes.upper
    if "upper" in chosen:
      upper = at(chosen["upper"])
    return table.lines(
        self.call.transformer, _arrays(self.call), dict(self.call.options),
        self.low, self.high, at(chosen["lower"]), upper,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntervalStep:
  """A call of which nothing is known but bounds of its result, [B, 1, ...].

  Attributes:
    low, high: these bounds.
    shapes: of one example of each input (static).
    careful: whether rounding is allowed for (static).
  """

  low: Array
  high: Array
  shapes: tuple[tuple[int, ...], ...] = dataclasses.field(
      metadata={"static": True}
  )
  careful: bool = dataclasses.field(metadata={"static": True})

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    above, below = jnp.maximum(coefficients, 0), jnp.minimum(coefficients, 0)
    terms = above * self.high + below * self.low
    lost = jnp.zeros_like(terms) if self.careful else None
    lead, dtype = coefficients.shape[:2], coefficients.dtype
    return Pulled(
        tuple(jnp.zeros(lead + shape, dtype) for shape in self.shapes),
        summed(terms, lost),
    )

  def at(self, examples: Array) -> "IntervalStep":
    low, high = _taken(examples, (self.low, self.high))
    return IntervalStep(low, high, self.shapes, self.careful)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LargestStep:
  """The largest of several inputs: of windows, or along axes.

  Attributes:
    call: which one.
    chosen: 1 at w, 0 elsewhere: [n, B, 1, ...out] for groups of n.
    settled: whether the maximum is that input, [B, 1, ...out].
    high: the largest upper bound, likewise.
    size: the largest magnitude of w, likewise.
    shape: of one example of the input (static).
    careful: whether rounding is allowed for (static).
  """

  call: Call
  chosen: Array
  settled: Array
  high: Array
  size: Array
  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  careful: bool = dataclasses.field(metadata={"static": True})

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    above, below = jnp.maximum(coefficients, 0), jnp.minimum(coefficients, 0)
    kept = below + jnp.where(self.settled, above, 0)
    terms = above * jnp.where(self.settled, 0, self.high)
    lost = None
    if self.careful:
      # An input that is in several windows has the sum of their coefficients.
      share = 2 * rounding.relative(terms.dtype, len(self.chosen))
      lost = lax.stop_gradient(share * jnp.abs(kept) * self.size)
      lost = lost + lost_in_products(kept, self.size)
    lead = coefficients.shape[:2]
    flat = lambda a: jnp.broadcast_to(
        a, a.shape[:1] + lead + a.shape[3:]
    ).reshape(a.shape[:1] + (-1,) + a.shape[3:])
    spread = flat(self.chosen) * kept.reshape((-1,) + kept.shape[2:])
    zeros = jnp.zeros((spread.shape[1],) + self.shape, coefficients.dtype)
    _, transposed = jax.vjp(lambda x: table_of_windows(self.call, x), zeros)
    pulled, = transposed(spread)
    return Pulled((pulled.reshape(lead + self.shape),), summed(terms, lost))

  def at(self, examples: Array) -> "LargestStep":
    settled, high, size = _taken(
        examples, (self.settled, self.high, self.size)
    )
    return LargestStep(
        self.call, self.chosen[:, examples], settled, high, size, self.shape,
        self.careful,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaximumStep:
  """max(x, y) = y + relu(x - y), or min(x, y) = -max(-x, -y).

  Attributes:
    lines: of relu on the difference, [B, 1, ...].
    sizes: X of both inputs, likewise.
    sign: 1 of a maximum, -1 of a minimum (static).
    careful: whether rounding is allowed for (static).
  """

  lines: Lines
  sizes: tuple[Array, Array]
  sign: int = dataclasses.field(metadata={"static": True})
  careful: bool = dataclasses.field(metadata={"static": True})

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    lines, signed = self.lines, self.sign * coefficients
    above, below = jnp.maximum(signed, 0), jnp.minimum(signed, 0)
    first = above * lines.upper_slope + below * lines.lower_slope
    second = above * (1 - lines.upper_slope) + below * (1 - lines.lower_slope)
    lost = None
    if self.careful:
      lost = 0.0
      for pulled, size in zip((first, second), self.sizes):
        # 1 - s is rounded, too.
        lost = lost + lost_in_products(pulled, size)
        lost = lost + lost_in_products(signed, size)
    constant = summed(
        above * lines.upper_offset + below * lines.lower_offset, lost
    )
    return Pulled((self.sign * first, self.sign * second), constant)

  def at(self, examples: Array) -> "MaximumStep":
    lines, sizes = _taken(examples, (self.lines, self.sizes))
    return MaximumStep(lines, sizes, self.sign, self.careful)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ProductStep:
  """x·y between planes; `chosen` mixes the two below, and the two above.

  Attributes:
    first, second: bounds of x and y, (l, u), [B, 1, ...] each.
    careful: whether rounding is allowed for (static).
  """

  first: Bounds
  second: Bounds
  careful: bool = dataclasses.field(metadata={"static": True})

  def pull(self, coefficients: Array, chosen: dict | None = None) -> Pulled:
    chosen = self.choices() if chosen is None else chosen
    (low, high), (low_, high_) = self.first, self.second
    above, below = jnp.maximum(coefficients, 0), jnp.minimum(coefficients, 0)
    share, other = chosen["lower"], chosen["upper"]
    parts = (
        (below * (1 - share), low, low_), (below * share, high, high_),
        (above * (1 - other), high, low_), (above * other, low, high_),
    )
    on_first = sum(weight * at_ for weight, _, at_ in parts)
    on_second = sum(weight * at for weight, at, _ in parts)
    terms = sum(-weight * at * at_ for weight, at, at_ in parts)
    lost = None
    if self.careful:
      size, size_ = (
          jnp.maximum(jnp.abs(low), jnp.abs(high))
          for low, high in (self.first, self.second)
      )
      # Each plane's coefficients and a run's product, all of that size.
      reach = 8 * jnp.abs(coefficients) * size * size_
      lost = lost_in_products(reach, jnp.ones_like(size))
      lost = lost + lost_in_products(coefficients, 1 + size + size_)
    return Pulled((on_first, on_second), summed(terms, lost))

  def at(self, examples: Array) -> "ProductStep":
    return ProductStep(
        *_taken(examples, (self.first, self.second)), self.careful
    )

  def choices(self) -> dict[str, Array]:
    low = self.first[0]
    return {"lower": jnp.full_like(low, 0.5), "upper": jnp.full_like(low, 0.5)}


def lost_in_products(pulled: Array, size: Array) -> Array:
  """What a product that makes a coefficient can be off by, [B, S, ...].

  Args:
    pulled: the coefficients.
    size: X, the largest magnitude of what they are on, [B, 1, ...].
  """
  lost = 2 * rounding.elementary(pulled.dtype) * jnp.abs(pulled) * size
  return lax.stop_gradient(lost + rounding.absolute(pulled.dtype, 1) * size)


def _taken(examples: Array, value):
  """The rows of some examples, of a pytree of arrays [B, ...]."""
  return jax.tree.map(lambda array: array[examples], value)


def table_of_windows(call: Call, x: Array) -> Array:
  """What each place of a maximum's groups holds, [n, N, ...out]."""
  return window_choice(call.transformer, x, dict(call.options), 0.0)


def _arrays(call: Call) -> dict:
  """Limits of clip with an axis for rows."""
  return {
      name: jnp.asarray(array) if jnp.ndim(array) <= len(call.shape)
      else jnp.asarray(array)[:, None]
      for name, array in call.arrays.items()
  }


def relaxed_step(
    call: Call,
    shapes: Sequence[tuple[int, ...]],
    bounds: Sequence[Bounds],
    result: Bounds,
    careful: bool,
):
  """Prepares a call that is not affine.

  Args:
    call: any.
    shapes: of one example of each input.
    bounds: of each input, (l, u), [B, ...].
    result: bounds of the result.
    careful: whether rounding is allowed for.
  """
  rows = [tuple(b[:, None] for b in pair) for pair in bounds]
  name, options = call.transformer, dict(call.options)
  if name in table.LINED:
    low, high = rows[0]
    slopes = table.slopes(name, _arrays(call), options, low, high)
    lines = table.lines(
        name, _arrays(call), options, low, high, slopes.lower, slopes.upper
    )
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    lines, size = computed_once((lines, size))  # And not for each row.
    return LineStep(call, low, high, size, slopes, lines, careful)
  if name in ("maximum", "minimum"):
    sign = 1 if name == "maximum" else -1
    (low, high), (low_, high_) = rows
    if sign < 0:
      (low, high), (low_, high_) = (-high, -low), (-high_, -low_)
    slack = rounding.elementary(low.dtype)
    least, most = low - high_, high - low_
    least = least - slack * jnp.abs(least) - rounding.tiny(low.dtype)
    most = most + slack * jnp.abs(most) + rounding.tiny(low.dtype)
    slopes = table.slopes("relu", {}, {}, least, most)
    lines = table.lines(
        "relu", {}, {}, least, most, slopes.lower, slopes.upper
    )
    sizes = tuple(jnp.maximum(jnp.abs(a), jnp.abs(b)) for a, b in rows)
    return MaximumStep(lines, sizes, sign, careful)
  if name == "multiply":
    return ProductStep(*rows, careful)
  if name in ("max_pool", "max_axes"):
    low, high = bounds[0]
    lows = window_choice(name, low, options, -jnp.inf)
    highs = window_choice(name, high, options, -jnp.inf)
    chosen = first_largest(lows)
    others = jnp.max(jnp.where(chosen, -jnp.inf, highs), axis=0)
    settled = others <= jnp.max(lows, axis=0)
    sizes = jnp.maximum(jnp.abs(lows), jnp.abs(highs))
    return LargestStep(
        call, chosen[:, :, None].astype(low.dtype), settled[:, None],
        jnp.max(highs, axis=0)[:, None],
        jnp.max(jnp.where(chosen, sizes, 0), axis=0)[:, None],
        tuple(shapes[0]), careful,
    )
  low, high = result
  return IntervalStep(
      low[:, None], high[:, None], tuple(map(tuple, shapes)), careful
  )
