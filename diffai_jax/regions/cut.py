"""A region cut by a half-space: what is left where a linear function is not below 0."""

from collections.abc import Callable
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.domains.long_sums import long_sum, terms_of
from diffai_jax.types import Array

# Multipliers are searched between 2^-12 and 2^12 times what makes both functions
# equally large, to within a few percent. Bounds are nearly flat around the best one.
_POWERS, _STEPS = 12.0, 14
_GOLDEN = (math.sqrt(5) - 1) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cut:
  """The points x of a region with ⟨λ, x⟩ + c ≥ 0.

  Attributes:
    region: Linf, L2 or Bounds.
    rows: λ, [B, ...].
    constants: c, [B].
  """

  region: object
  rows: Array
  constants: Array

  def bounds(self, images: Array) -> tuple[Array, Array]:
    """Those of the region, which is not smaller."""
    return self.region.bounds(images)

  def linear_max(self, coefficients: Array, images: Array) -> Array:
    """Upper bounds of ⟨a, x⟩ over the points that are left; see `largest_cut`.

    Args:
      coefficients: a, [B, S, ...].
      images: [B, ...], that the region is around.

    Returns:
      [B, S]; the region's own bounds where a cut gains nothing.
    """
    return largest_cut(
        coefficients, *self.bounds(images), self.rows, self.constants,
        lambda moved: self.region.linear_max(moved, images),
    )

  def outside(
      self, images: Array, low: Array, high: Array, rows: Array,
      examples: Array,
  ) -> Array:
    """c and the largest value of ⟨λ, x⟩ over variables that are not some others.

    Args:
      images: [B, ...].
      low, high, rows: bounds and λ of these others, [R, ...]; 0 where there is none.
      examples: which examples these are of, [R].

    Returns:
      Upper bounds, [R].
    """
    dtype, ends = self.rows.dtype, []
    low_of_all, high_of_all = self.bounds(images)
    for sign, l, u, slopes in (
        (1, low_of_all, high_of_all, self.rows), (-1, low, high, rows)
    ):
      flat = lambda a: a.reshape((len(a), -1))
      # Of what is left out, the largest value is taken off: it is bounded below.
      most = flat(jnp.maximum(slopes * l, slopes * u))
      share = rounding.relative(dtype, terms_of(most.shape[1]))
      slack = share * jnp.abs(most)
      total = long_sum(most + sign * slack)
      ends.append(total + sign * rounding.absolute(dtype, most.shape[1]))
    whole, part = ends
    whole = whole[examples]
    found = whole - part + self.constants[examples]
    size = jnp.abs(whole) + jnp.abs(part) + jnp.abs(self.constants[examples])
    return found + rounding.elementary(dtype) * size + rounding.tiny(dtype)


def largest_cut(
    coefficients: Array, low: Array, high: Array, rows: Array, rest: Array,
    largest: Callable[[Array], Array],
) -> Array:
  """Upper bounds of ⟨a, x⟩ where ⟨λ, x⟩ + c ≥ 0, x in a region in a box.

  Sound by weak duality: there, ⟨a, x⟩ ≤ ⟨a + γλ, x⟩ + γc for every γ ≥ 0, and that is
  bounded over the region. Any γ will do, so it is searched in plain floats: the bound
  is convex in γ, so golden sections find the best. The sum of both rows as it is
  computed, w, is off by at most 4u(|w| + γ|λ|) and what underflows, which costs that
  times the largest magnitude of each variable.

  Args:
    coefficients: a, [R, S, ...].
    low, high: the box, [R, ...].
    rows: λ, [R, ...].
    rest: c, [R].
    largest: upper bounds of ⟨w, x⟩ over the region for w [R, S, ...], [R, S].

  Returns:
    [R, S]; those of `largest` where the cut gains nothing.
  """
  dtype, lead = coefficients.dtype, coefficients.shape[:2]
  count, axes = math.prod(coefficients.shape[2:]), coefficients.ndim - 2
  wide = lambda gamma: gamma.reshape(lead + (1,) * axes)
  flat = lambda a: a.reshape(a.shape[:2] + (count,))
  low, high, rows, rest = (
      a[:, None].astype(dtype) for a in (low, high, rows, rest)
  )
  size = lambda a: long_sum(jnp.abs(flat(a)))
  scale = size(coefficients) / size(rows)
  middle, radius = flat(low / 2 + high / 2), flat(high / 2 - low / 2)
  at_middle = [long_sum(flat(a) * middle) for a in (coefficients, rows)]

  def roughly(power: Array) -> Array:
    """In plain floats, over the box."""
    gamma = scale * 2.0**power
    moved = flat(coefficients) + gamma[..., None] * flat(rows)
    return (
        long_sum(jnp.abs(moved) * radius) + at_middle[0]
        + gamma * (at_middle[1] + rest)
    )

  gamma = lax.stop_gradient(scale * 2.0 ** _least(roughly, lead, dtype))
  added = wide(gamma) * rows
  most, constant = largest(coefficients + added), gamma * rest
  unit, tiny = rounding.elementary(dtype), rounding.absolute(dtype, 1)
  each = unit * (jnp.abs(coefficients + added) + jnp.abs(added)) + tiny
  each = each * jnp.maximum(jnp.abs(low), jnp.abs(high))
  share = 2 * rounding.relative(dtype, terms_of(count))
  lost = long_sum(flat(each)) * (1 + share)
  lost = lost + rounding.absolute(dtype, 2 * count)
  # Of the constant twice: γ may be computed once more for it, and differently.
  lost = lost + unit * (jnp.abs(most) + 2 * jnp.abs(constant) + lost)
  found = most + constant + lax.stop_gradient(lost + tiny)
  found = jnp.where(jnp.isfinite(gamma), found, jnp.nan)
  # NaN, which bounds nothing, loses.
  return jnp.fmin(largest(coefficients), found)


def _least(function, shape: tuple[int, ...], dtype) -> Array:
  """About where functions of one number are least, between -12 and 12."""
  low, high = (jnp.full(shape, end, dtype) for end in (-_POWERS, _POWERS))
  left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)

  def step(_, state):
    low, high, left, right, at_left, at_right = state
    is_left = at_left <= at_right
    low, high = jnp.where(is_left, low, left), jnp.where(is_left, right, high)
    reach = _GOLDEN * (high - low)
    new = jnp.where(is_left, high - reach, low + reach)
    found = function(new)
    pick = lambda first, second: jnp.where(is_left, first, second)
    return (
        low, high, pick(new, right), pick(left, new), pick(found, at_right),
        pick(at_left, found),
    )

  state = low, high, left, right, function(left), function(right)
  _, _, left, right, at_left, at_right = lax.fori_loop(0, _STEPS, step, state)
  return jnp.where(at_left <= at_right, left, right)
