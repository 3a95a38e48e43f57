"""The largest of several inputs: max-pooling, and maxima over axes.

Let w be the input of a group with the largest lower bound, l_w, and m the largest
upper bound of the others. The maximum y satisfies x_w ≤ y ≤ x_w + max(0, m - l_w),
because y is x_w or another input, which is at most m = (m - l_w) + l_w ≤ (m - l_w)
+ x_w. So where m ≤ l_w the maximum is x_w, error and symbols and all. Elsewhere it
is either x_w with the fresh error [0, m - l_w], or the interval from l_w to the
largest upper bound, whichever adds less; rule `box` always takes the interval. The
selection carries no gradient.

(Pools of means are affine: see `affine`. Of two values: see `products`.)
"""

import dataclasses
import functools

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import generators, merging, rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.kernels import precision
from diffai_jax.kernels.geometry import Number, Sides, pair, sides
from diffai_jax.kernels.images import pool, stride_or
from diffai_jax.kernels.taps import pad
from diffai_jax.transformers.affine import behind_batch, sum_block
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
    window: Number,
    *,
    stride: Number | None = None,
    padding: Sides = 0,
    symbol: str | None = None,
):
  """The largest value of each window, channel by channel; see this file.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    window: height and width, or (height, width).
    stride: likewise; None is `window`.
    padding: rows and columns on each side that never are the largest, or ((top,
      bottom), (left, right)).
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
    window: Number,
    *,
    stride: Number | None = None,
    padding: Sides = 0,
    symbol: str | None = None,
) -> HybridZonotope:
  _check(window, padding)
  x = precision.in_one_type(x)
  lows = _seen(lower(x), window, stride, padding, -jnp.inf)
  highs = _seen(upper(x), window, stride, padding, -jnp.inf)
  chosen = first_largest(lows)
  kept = _choose(x, chosen, window, stride, padding)
  return _bounded(x, lows, highs, chosen, kept, symbol)


@transformer
@functools.singledispatch
def max_axes(x, axes: tuple[int, ...], *, symbol: str | None = None):
  """The largest over axes of one example; see this file.

  Blocks become Dense, m·k numbers for k maxima.

  Args:
    x: array [B, ...], HybridZonotope or Product over [...].
    axes: of one example, 0 is the first after the batch; or negative.
    symbol: as of `max_pool`.

  Returns:
    The same kind, without these axes.

  Raises:
    ValueError: if an example has no such axes, or no entries along them, or an
      element is a pure zonotope with symbols of that name.
    TypeError: for any other kind.
  """
  require_array(x, "max_axes")
  behind = _of_entries(axes, x.shape)
  return jnp.max(jnp.asarray(x), axis=behind)


register_parts(max_axes)


@max_axes.register
def _(
    x: HybridZonotope, axes: tuple[int, ...], *, symbol: str | None = None
) -> HybridZonotope:
  x = precision.in_one_type(x)
  shape = x.center.shape
  behind = _of_entries(axes, shape)
  if not behind:
    return x
  first = tuple(range(len(behind)))

  def in_front(values: Array) -> Array:
    moved = jnp.moveaxis(values, behind, first)
    return moved.reshape((-1,) + moved.shape[len(behind):])

  lows, highs = in_front(lower(x)), in_front(upper(x))
  chosen = first_largest(lows)
  sizes = tuple(shape[axis] for axis in behind)
  mask = jnp.moveaxis(
      chosen.reshape(sizes + chosen.shape[1:]), first, behind
  )
  weights = mask.astype(x.center.dtype)
  pick = lambda values: jnp.sum(jnp.where(mask, values, 0), axis=behind)
  own = x.uncorrelated
  kept = dataclasses.replace(
      x,
      center=pick(x.center),
      uncorrelated=None if own is None else pick(own),
      correlated={
          name: sum_block(generators.weigh(block, weights), behind)
          for name, block in x.correlated.items()
      },
  )
  return _bounded(x, lows, highs, chosen, kept, symbol)


def window_choice(
    name: str, x: Array, options: dict, fill: float
) -> Array:
  """What each place of a maximum's groups holds: [n, B, ...] for groups of n.

  Linear in x if `fill` is 0.

  Args:
    name: "max_pool" or "max_axes".
    x: [B, ...].
    options: of the transformer.
    fill: what padding holds.
  """
  if name == "max_pool":
    window = options["window"]
    return _seen(
        x, window, options.get("stride"), options.get("padding", 0), fill
    )
  behind = _of_entries(options["axes"], x.shape)
  moved = jnp.moveaxis(x, behind, tuple(range(len(behind))))
  return moved.reshape((-1,) + moved.shape[len(behind):])


def _of_entries(axes: tuple[int, ...], shape: tuple[int, ...]):
  behind = behind_batch(axes, len(shape) - 1)
  if not all(shape[axis] for axis in behind):
    raise ValueError(
        f"max_axes wants entries along the axes {tuple(axes)} of {shape[1:]}"
    )
  return behind


def first_largest(lows: Array) -> Array:
  """Which entry of axis 0 is the first largest, bool."""
  best = jnp.argmax(lax.stop_gradient(lows), axis=0)
  return best == jnp.arange(len(lows)).reshape((-1,) + (1,) * best.ndim)


def _bounded(
    x: HybridZonotope, lows: Array, highs: Array, chosen: Array,
    kept: HybridZonotope, symbol: str | None,
) -> HybridZonotope:
  """The largest of each group, by the rule of this file.

  Args:
    x: the inputs.
    lows, highs: their bounds, [n, B, ...] for groups of n.
    chosen: bool, likewise: which input is w.
    kept: the element over the chosen inputs, [B, ...].
    symbol: of the fresh error.
  """
  least = jnp.max(lows, axis=0)
  largest = jnp.max(highs, axis=0)
  others = jnp.max(jnp.where(chosen, -jnp.inf, highs), axis=0)
  added = jnp.where(others > least, others - least, 0)
  slack = rounding.elementary(added.dtype) * (jnp.abs(others) + jnp.abs(least))
  slack = slack + 4 * rounding.tiny(added.dtype)  # Of a lost difference or half.
  added = added + lax.stop_gradient(jnp.where(others > least, slack, 0))
  middle, reach = interval_error(least, largest)

  # `others` is -inf in windows of one input. NaN bounds keep nothing.
  keeps = others <= least
  if not x.relu.startswith("box") and x.correlated:
    keeps = keeps | (added / 2 < reach)
  return relax(
      kept,
      slope=jnp.where(keeps, 1.0, 0.0).astype(added.dtype),
      offset=jnp.where(keeps, added / 2, middle),
      error=jnp.where(keeps, added / 2, reach),
      symbol=symbol,
  )


def _check(window: Number, padding: Sides) -> None:
  sizes = pair(window)
  if min(sizes) < 1:
    raise ValueError(f"max_pool's window is {window}; it must be 1 or more")
  if not all(
      0 <= side < size for size, ends in zip(sizes, sides(padding))
      for side in ends
  ):
    raise ValueError(
        f"max_pool's padding is {padding}; it must be below the window,"
        f" {window}, so that each window holds an input"
    )


def _seen(
    x: Array, window: Number, stride: Number | None, padding: Sides, fill: float
) -> Array:
  """What each place of the windows holds, [kh·kw, B, H', W', C]."""
  padded = pad(x, padding, fill)
  return jnp.stack([
      pool(padded, place, stride_or(stride, window), 0)
      for place in _places(window)
  ])


def _places(window: Number) -> list[np.ndarray]:
  """For each place of a window, in order, the weights that select it."""
  height, width = pair(window)
  return list(np.eye(height * width).reshape(-1, height, width))


def _choose(
    x: HybridZonotope, chosen: Array, window: Number, stride: Number | None,
    padding: Sides,
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
