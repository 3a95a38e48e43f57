"""α-CROWN: slopes of the lines, chosen by gradient descent on the bounds.

Xu et al. 2021, "Fast and complete: enabling complete verification with rapid and
massively parallel incomplete verifiers". A line's slope is free, and any slope is
sound: so slopes are moved in plain floats, each row's own towards a smaller upper
bound, the best that a row has met are kept, and one last walk allows for rounding.
"""

from collections.abc import Callable

import jax
from jax import lax
import jax.numpy as jnp
import optax

from diffai_jax.backward.walk import Way, upper_bounds
from diffai_jax.types import Array

# What αβ-CROWN takes.
_RATE, _DECAY = 0.1, 0.98


def chosen_slopes(
    way: Way,
    region,
    images: Array,
    rows: Array,
    offsets: Array,
    number: int,
    steps: int,
    rate: float = _RATE,
) -> dict[int, dict]:
  """Slopes for each row that make its upper bound small.

  Args:
    way, region, images, rows, offsets, number: of `upper_bounds`.
    steps: how often slopes are moved.
    rate: how far at first, of the way from the least to the steepest slope.

  Returns:
    For `upper_bounds`: shares in [0, 1], [B, S, ...].
  """
  plain = way.plain()
  bounds = lambda chosen: upper_bounds(
      plain, region, images, rows, offsets, number, chosen
  )
  return descended(bounds, way.choices(), offsets, steps, rate)


def descended(
    bounds: Callable[[dict], Array],
    choices: dict[int, dict],
    like: Array,
    steps: int,
    rate: float = _RATE,
) -> dict[int, dict]:
  """The best that some steps of descent meet.

  Args:
    bounds: of [B, S] rows, of shares of [B, S, ...], in plain floats.
    choices: to begin with, [B, 1, ...] each.
    like: an array [B, S] of the bounds' type.
    steps, rate: of `chosen_slopes`.

  Returns:
    For each row the shares of its least bound, [B, S, ...].
  """
  begin = jax.tree.map(
      lambda share: jnp.broadcast_to(share, like.shape + share.shape[2:]),
      choices,
  )
  optimizer = optax.adam(optax.exponential_decay(rate, 1, _DECAY))

  def loss(chosen):
    found = bounds(chosen)
    return jnp.sum(jnp.where(jnp.isfinite(found), found, 0)), found

  def step(state, _):
    chosen, moments, best, least = state
    (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(chosen)
    better = found < least
    best = jax.tree.map(
        lambda new, old: jnp.where(_beside(better, new), new, old), chosen, best
    )
    least = jnp.where(better, found, least)
    gradient = jax.tree.map(jnp.nan_to_num, gradient)
    updates, moments = optimizer.update(gradient, moments, chosen)
    chosen = jax.tree.map(
        lambda share, change: jnp.clip(share + change, 0, 1), chosen, updates
    )
    return (chosen, moments, best, least), None

  least = jnp.full(like.shape, jnp.inf, like.dtype)
  state = begin, optimizer.init(begin), begin, least
  (chosen, _, best, least), _ = lax.scan(step, state, length=steps)
  last = bounds(chosen)
  return jax.tree.map(
      lambda new, old: jnp.where(_beside(last < least, new), new, old),
      chosen, best,
  )


def _beside(rows: Array, like: Array) -> Array:
  """[B, S] with as many axes as an array [B, S, ...]."""
  return rows.reshape(rows.shape + (1,) * (like.ndim - 2))
