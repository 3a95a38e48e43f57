"""Max-pooling. (Pools of means are affine: see `affine`.)"""

import dataclasses
import functools

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import generators, merging, rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.kernels import precision
from diffai_jax.kernels.images import pool, stride_or
from diffai_jax.kernels.taps import pad
from diffai_jax.transformers.dispatch import (
    register_parts,
    require_array,
    transformer,
)
from diffai_jax.transformers.relaxation import interval_error, relax
from diffai_jax.transformers.structure.block_convolution import pool_block
from diffai_jax.types import Array


@transformer
@functools.singledispatch
def max_pool(
    x,
    window: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    symbol: str | None = None,
):
  """The largest value of each window, channel by channel.

  On an element: let w be the input of a window with the largest lower bound,
  l_w, and m the largest upper bound of the others. The maximum y satisfies
  x_w ≤ y ≤ x_w + max(0, m - l_w), because y is x_w or another input, which is at
  most m = (m - l_w) + l_w ≤ (m - l_w) + x_w. So where m ≤ l_w the maximum is x_w,
  error and symbols and all. Elsewhere it is either x_w with the fresh error
  [0, m - l_w], or the interval from l_w to the largest upper bound, whichever
  adds less; rule `box` always takes the interval. The selection carries no
  gradient.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    window: height and width.
    stride: of both directions; None is `window`.
    padding: rows and columns on each side that never are the largest.
    symbol: name of the fresh error's noise symbols, for pure zonotopes; None
      makes one that nothing else has.

  Returns:
    The same kind, over [H', W', C].

  Raises:
    ValueError: if the padding is as large as the window, or an element is a
      pure zonotope with symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "max_pool")
  _check(window, padding)
  return functools.reduce(
      jnp.maximum, _seen(x, window, stride, padding, -jnp.inf)
  )


register_parts(max_pool)


@max_pool.register
def _(
    x: HybridZonotope,
    window: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    symbol: str | None = None,
) -> HybridZonotope:
  _check(window, padding)
  x = precision.in_one_type(x)
  lows = _seen(lower(x), window, stride, padding, -jnp.inf)
  highs = _seen(upper(x), window, stride, padding, -jnp.inf)
  best = jnp.argmax(lax.stop_gradient(lows), axis=0)
  chosen = best == jnp.arange(window**2).reshape(-1, 1, 1, 1, 1)

  least = jnp.max(lows, axis=0)
  largest = jnp.max(highs, axis=0)
  others = jnp.max(jnp.where(chosen, -jnp.inf, highs), axis=0)
  added = jnp.where(others > least, others - least, 0)
  slack = rounding.elementary(added.dtype) * (jnp.abs(others) + jnp.abs(least))
  slack = slack + 4 * rounding.tiny(added.dtype)  # Of a lost difference or half.
  added = added + lax.stop_gradient(jnp.where(others > least, slack, 0))
  middle, reach = interval_error(least, largest)

  kept = _choose(x, chosen, window, stride, padding)
  # `others` is -inf in windows of one input. NaN bounds keep nothing.
  keeps = others <= least
  if x.relu != "box" and x.correlated:
    keeps = keeps | (added / 2 < reach)
  return relax(
      kept,
      slope=jnp.where(keeps, 1.0, 0.0).astype(added.dtype),
      offset=jnp.where(keeps, added / 2, middle),
      error=jnp.where(keeps, added / 2, reach),
      symbol=symbol,
  )


def _check(window: int, padding: int) -> None:
  if window < 1:
    raise ValueError(f"max_pool's window is {window}; it must be 1 or more")
  if not 0 <= padding < window:
    raise ValueError(
        f"max_pool's padding is {padding}; it must be below the window,"
        f" {window}, so that each window holds an input"
    )


def _seen(
    x: Array, window: int, stride: int | None, padding: int, fill: float
) -> Array:
  """What each place of the windows holds, [window², B, H', W', C]."""
  padded = pad(x, padding, fill)
  return jnp.stack([
      pool(padded, place, stride_or(stride, window), 0)
      for place in _places(window)
  ])


def _places(window: int) -> list[np.ndarray]:
  """For each place of a window, in order, the weights that select it."""
  return list(np.eye(window**2).reshape(-1, window, window))


def _choose(
    x: HybridZonotope, chosen: Array, window: int, stride: int | None, padding
) -> HybridZonotope:
  """The element over the inputs that were chosen, one a window."""

  def pick(values: Array) -> Array:
    seen = _seen(values, window, stride, padding, 0)
    return jnp.sum(jnp.where(chosen, seen, 0), axis=0)

  def pick_block(block: generators.Block) -> generators.Block:
    pieces = [
        generators.weigh(
            pool_block(block, place, stride_or(stride, window), padding),
            mask.astype(x.center.dtype),
        )
        for place, mask in zip(_places(window), chosen)
    ]
    return functools.reduce(merging.add, pieces)

  uncorrelated = x.uncorrelated
  return dataclasses.replace(
      x,
      center=pick(x.center),
      uncorrelated=None if uncorrelated is None else pick(uncorrelated),
      correlated={
          name: pick_block(block) for name, block in x.correlated.items()
      },
  )
