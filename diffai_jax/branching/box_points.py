"""Points of boxes at which the least of a group's rows is large.

Where a region has few variables its boxes are small enough to be searched: points
are drawn in each, and the best one is moved along signs of gradients, by steps that
are small beside the box. What breaks a property may be a ten-millionth of a region
with the same value all around it, where an attack's large steps never come.
"""

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.graph import Graph
from diffai_jax.types import Array, PRNGKey

# Points that are drawn in each box, and how many of them are run at once.
_DRAWN, _AT_ONCE = 64, 8
# Steps uphill, as shares of the box: the first and the last.
_STEPS, _FIRST, _LAST = 12, 0.1, 0.001


def best_points(
    graph: Graph, low: Array, high: Array, rows: Array, offsets: Array,
    start: Array, key: PRNGKey,
) -> tuple[Array, Array]:
  """The best point that is found of each box, [N, ...], and its value, [N].

  Args:
    graph: the network.
    low, high: ends of the boxes, [N, ...].
    rows, offsets: C and d of each one's group, [N, S, ...output] and [N, S].
    start: a point of each box, [N, ...].
    key: of randomness.
  """
  wide = lambda of: of.reshape((-1,) + (1,) * (low.ndim - 1))

  def least(points, times=1):
    """Of `times` points of each box, one box's behind the other's."""
    again = lambda of: jnp.repeat(of, times, axis=0)
    axes = tuple(range(2, rows.ndim))
    values = jnp.sum(again(rows) * graph(points)[:, None], axes)
    values = (values + again(offsets)).min(axis=1)
    return jnp.where(jnp.isnan(values), -jnp.inf, values)

  def better(best, points, values):
    old_points, old_values = best
    is_better = values > old_values
    return (
        jnp.where(wide(is_better), points, old_points),
        jnp.where(is_better, values, old_values),
    )

  def draw(best, key):
    shape = (len(low), _AT_ONCE) + low.shape[1:]
    share = jax.random.uniform(key, shape, low.dtype)
    ends = low[:, None], high[:, None]
    points = jnp.clip(ends[0] + share * (ends[1] - ends[0]), *ends)
    values = least(points.reshape((-1,) + low.shape[1:]), _AT_ONCE)
    values = values.reshape(shape[:2])
    which = jnp.argmax(values, axis=1)[:, None]
    of_best = lambda array: jnp.take_along_axis(
        array, which.reshape((-1, 1) + (1,) * (array.ndim - 2)), 1
    )[:, 0]
    return better(best, of_best(points), of_best(values)), None

  def step(state, share):
    points, best = state
    values, back = jax.vjp(least, points)
    gradient, = back(jnp.ones_like(values))
    moved = points + share * (high - low) * jnp.sign(gradient)
    return (jnp.clip(moved, low, high), better(best, points, values)), None

  keys = jax.random.split(key, _DRAWN // _AT_ONCE)
  best, _ = lax.scan(draw, (start, least(start)), keys)
  shares = jnp.geomspace(_FIRST, _LAST, _STEPS, dtype=low.dtype)
  (points, best), _ = lax.scan(step, (best[0], best), shares)
  return better(best, points, least(points))
