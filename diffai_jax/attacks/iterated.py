"""Attacks: points of a region that a network gets wrong, or nearly."""

import dataclasses
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.domains import rounding
from diffai_jax.kernels import precision
from diffai_jax.kernels.loops import repeat
from diffai_jax.types import Array, PRNGKey

Forward = Callable[[Array], Array]


def mi_fgsm(
    forward: Forward,
    images: Array,
    lower: Array,
    upper: Array,
    labels: Array,
    *,
    step_size: float | Array,
    steps: int = 20,
    momentum: float = 0.8,
) -> Array:
  """Momentum iterative FGSM (Dong et al. 2018), the paper's evaluation attack.

  From the image, `steps` times: m ← momentum·m + ∇/‖∇‖₁ of each example's own
  loss, x ← clip(x + step_size·sign(m), lower, upper). Examples never affect
  each other.

  Args:
    forward: the concrete network, [B, ...] -> logits [B, K].
    images: where to start, [B, ...].
    lower, upper: bounds of the region, [B, ...]. The result never leaves them.
    labels: int, [B].
    step_size: in input units; a number, or what broadcasts against the images.
      The paper's 0.0031373 at ε = 8/255 is 2ε/steps.
    steps: number of gradient steps; 0 returns the images.
    momentum: μ ≥ 0.

  Returns:
    The first point that is misclassified, or the last point where none is,
    [B, ...]. NaN where traced bounds are reversed.

  Raises:
    ValueError: if a lower bound is known to be above its upper bound.
  """

  lower, upper = _region(lower, upper)
  move = lambda x, direction: jnp.clip(
      x + step_size * jnp.sign(direction), lower, upper
  )
  step = lambda _, state: mi_fgsm_step(
      forward, state, labels, move, momentum=momentum
  )
  return repeat(steps, step, mi_fgsm_start(images, lower, upper)).point


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MomentumState:
  """What MI-FGSM knows between two steps.

  Attributes:
    point: where it is, [B, ...].
    direction: the sum of gradients, [B, ...].
    found: whether the point is misclassified, bool [B].
  """

  point: Array
  direction: Array
  found: Array


def mi_fgsm_start(images: Array, lower: Array, upper: Array) -> MomentumState:
  """The state before the first step; arguments as of `mi_fgsm`."""
  return MomentumState(
      jnp.clip(images, lower, upper),
      jnp.zeros_like(images),
      jnp.zeros(images.shape[0], bool),
  )


def mi_fgsm_step(
    forward: Forward,
    state: MomentumState,
    labels: Array,
    move: Callable[[Array, Array], Array],
    *,
    momentum: float,
) -> MomentumState:
  """The state after one step; other arguments as of `mi_fgsm`.

  Args:
    move: (points, m) -> points of the region, a step along m from the given ones:
      the sign's for a box, the gradient's own for a Euclidean ball.
  """

  def loss(x: Array) -> tuple[Array, Array]:
    logits = forward(x)
    wrong = is_wrong(logits, labels)
    return losses.cross_entropy(losses.margins(logits, labels)).sum(), wrong

  x = state.point
  gradient, wrong = jax.grad(loss, has_aux=True)(x)
  found = state.found | wrong
  direction = momentum * state.direction + _unit(gradient)
  moved = move(x, direction)
  point = jnp.where(_per_example(found, x), x, moved)
  return MomentumState(point, direction, found)


def is_wrong(logits: Array, labels: Array) -> Array:
  """Which logits are not finite, or highest at another class; bool [B]."""
  finite = jnp.all(jnp.isfinite(logits), axis=1)
  return ~finite | (jnp.argmax(logits, axis=1) != labels)


def pgd(
    forward: Forward,
    lower: Array,
    upper: Array,
    labels: Array,
    *,
    steps: int | Array,
    step_size: float | Array,
    momentum: float | Array = 0.0,
    restarts: int | Array = 1,
    random_start: bool = False,
    keys: PRNGKey | None = None,
    data_range: tuple[float, float] | None = None,
) -> Array:
  """Projected gradient ascent in a box, for training: all steps are taken.

  From each start, `steps` times: m ← momentum·m + ∇/‖∇‖₁ of each example's own
  loss, x ← clip(x + step_size·½(u - l)·sign(m), l, u). With k steps of 1/k and no
  momentum from the center it is IFGSM_k of the paper; from a random point it is
  PGD (Madry et al. 2018).

  Args:
    forward: the concrete network, [B, ...] -> logits [B, K]. Its parameters
      must not be differentiated.
    lower, upper: l and u, [B, ...].
    labels: int, [B].
    steps: number of steps; may be traced.
    step_size: as a share of the box's radius.
    momentum: μ ≥ 0.
    restarts: number of starts, at least 1; may be traced. The last point of the
      start that ends with the highest loss is kept.
    random_start: whether the first start, too, is drawn uniformly from the box
      and not its center.
    keys: a random key for each example, [B], if a start is random.
    data_range: lowest and highest value that data can have, if any: the
      result stays within it, too.

  Returns:
    Points, [B, ...], within the box and the range; without gradient. NaN where
    these, if traced, have no point in common.

  Raises:
    ValueError: if the box is known to be empty, or to be outside of the range.
  """
  low, high = _region(lower, upper, data_range)
  center, reach = lower / 2 + upper / 2, upper / 2 - lower / 2

  def loss(x: Array) -> Array:
    return losses.cross_entropy(losses.margins(forward(x), labels))

  def step(_, state):
    x, direction = state
    gradient = jax.grad(lambda x: loss(x).sum())(x)
    direction = momentum * direction + _unit(gradient)
    moved = x + step_size * reach * jnp.sign(direction)
    return jnp.clip(moved, low, high), direction

  def attempt(start: Array) -> Array:
    state = (jnp.clip(start, low, high), jnp.zeros_like(center))
    return repeat(steps, step, state)[0]

  def drawn(number: Array | int) -> Array:
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    noise = jax.vmap(
        lambda key: jax.random.uniform(key, center.shape[1:], center.dtype)
    )(own)
    return lower + (upper - lower) * noise

  def again(number, best):
    point, highest = best
    found = attempt(drawn(number))
    value = loss(found)
    better = value > highest
    point = jnp.where(_per_example(better, found), found, point)
    return point, jnp.where(better, value, highest)

  point = attempt(drawn(0) if random_start else center)
  if not (isinstance(restarts, int) and restarts == 1):
    point, _ = lax.fori_loop(1, restarts, again, (point, loss(point)))
  return lax.stop_gradient(point)


def _region(
    lower: Array, upper: Array, data_range: tuple[float, float] | None = None
) -> tuple[Array, Array]:
  """The ends of a box within a range; NaN for those of an empty one."""
  precision.refuse(
      lower > upper,
      "is a lower bound above its upper bound; exchange them", lower,
  )
  low, high = jnp.asarray(lower), jnp.asarray(upper)
  empty = ~(low <= high)
  if data_range is not None:
    # A box that was computed may miss an end of the range by its rounding.
    slack = rounding.elementary(low.dtype) * max(map(abs, data_range))
    outside = (low > data_range[1] + slack) | (high < data_range[0] - slack)
    precision.refuse(
        outside,
        f"is in a box outside of the data's range, {data_range[0]:g} to"
        f" {data_range[1]:g}; give the range of the data", lower,
    )
    low, high = jnp.clip(low, *data_range), jnp.clip(high, *data_range)
    empty = empty | outside
  return jnp.where(empty, jnp.nan, low), jnp.where(empty, jnp.nan, high)


def _unit(gradient: Array) -> Array:
  """Each example's gradient over its own L1 norm; 0 where that is 0."""
  axes = tuple(range(1, gradient.ndim))
  # The largest entry first: a sum of huge entries would overflow.
  largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
  gradient = gradient / jnp.where(largest > 0, largest, 1)
  norm = jnp.sum(jnp.abs(gradient), axis=axes, keepdims=True)
  return gradient / jnp.where(norm > 0, norm, 1)


def _per_example(values: Array, like: Array) -> Array:
  return values.reshape((-1,) + (1,) * (like.ndim - 1))
