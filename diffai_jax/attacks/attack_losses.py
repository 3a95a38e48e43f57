"""What attacks increase: functions of logits, untargeted or towards a class.

Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble
of diverse parameter-free attacks", section 4.
"""

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.types import Array

LOSSES = ("CE", "DLR")
_LEAST = 1e-12  # Of what is divided by.


def attack_loss(
    name: str, logits: Array, labels: Array, targets: Array | None = None
) -> Array:
  """The loss that an attack increases, [B].

  Cross entropy of the label, or minus that of the target. DLR, the difference of
  logits ratio, does not change when logits are scaled or shifted:

    -(z_y - max_{k≠y} z_k) / (z_(1) - z_(3)), and towards a class t
    -(z_y - z_t) / (z_(1) - (z_(3) + z_(4))/2),

  with z_(1) ≥ z_(2) ≥ … the sorted logits. Three classes have no z_(4): the
  targeted one then divides by z_(1) - z_(3), too. With two there is nothing to
  divide by but the difference itself, and it is not divided.

  Args:
    name: one of LOSSES.
    logits: [B, K], of two classes at least.
    labels: y, int [B].
    targets: t, int [B]; None for any other class.
  """
  if name == "CE":
    if targets is None:
      return losses.cross_entropy(losses.margins(logits, labels))
    return -losses.cross_entropy(losses.margins(logits, targets))
  classes = logits.shape[1]
  own = _at(logits, labels)
  if targets is None:
    others = jnp.arange(classes) != labels[:, None]
    other = jnp.max(jnp.where(others, logits, -jnp.inf), axis=1)
  else:
    other = _at(logits, targets)
  if classes == 2:
    return other - own
  largest, _ = lax.top_k(logits, min(4, classes))
  last = largest[:, 2]
  if targets is not None and classes > 3:
    last = (last + largest[:, 3]) / 2
  return (other - own) / (largest[:, 0] - last + _LEAST)


def runners_up(logits: Array, labels: Array, count: int) -> Array:
  """The classes with the highest logits but the label's, int32 [B, count].

  Args:
    logits: [B, K].
    labels: int, [B].
    count: how many, less than K.
  """
  own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
  _, classes = lax.top_k(jnp.where(own, -jnp.inf, logits), count)
  return classes.astype(jnp.int32)


def _at(logits: Array, classes: Array) -> Array:
  return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
