"""Attacks: points of a region that a network gets wrong."""

from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.types import Array

Forward = Callable[[Array], Array]


def mi_fgsm(
    forward: Forward,
    images: Array,
    lower: Array,
    upper: Array,
    labels: Array,
    *,
    step_size: float,
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
    step_size: in input units. The paper's 0.0031373 at ε = 8/255 is 2ε/steps.
    steps: number of gradient steps; 0 returns the images.
    momentum: μ ≥ 0.

  Returns:
    The first point that is misclassified, or the last point where none is,
    [B, ...].
  """

  def loss(x: Array) -> tuple[Array, Array]:
    logits = forward(x)
    wrong = jnp.argmax(logits, axis=1) != labels
    return losses.cross_entropy(losses.margins(logits, labels)).sum(), wrong

  def per_example(values: Array) -> Array:
    return values.reshape((-1,) + (1,) * (images.ndim - 1))

  def step(_, state):
    x, direction, found = state
    gradient, wrong = jax.grad(loss, has_aux=True)(x)
    found = found | wrong
    axes = tuple(range(1, gradient.ndim))
    norm = jnp.sum(jnp.abs(gradient), axis=axes, keepdims=True)
    direction = momentum * direction + gradient / jnp.where(norm > 0, norm, 1)
    moved = jnp.clip(x + step_size * jnp.sign(direction), lower, upper)
    return jnp.where(per_example(found), x, moved), direction, found

  start = jnp.clip(images, lower, upper)
  found = jnp.zeros(images.shape[0], bool)
  state = (start, jnp.zeros_like(images), found)
  return lax.fori_loop(0, steps, step, state)[0]
