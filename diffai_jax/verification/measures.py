"""What is measured of an image: its prediction, an attack, what a domain proves.

A measure is a function of (params, images, labels) that says something about
each image; `programs` compiles it and runs it on batches.
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.attacks import mi_fgsm
from diffai_jax.data import to_unit_range
from diffai_jax.goals import REGIONS, Context, ball
from diffai_jax.types import Array, Mode

# (params, images uint8 [b, ...], labels [b]) -> arrays [b] by name.
Measure = Callable[[dict, Array, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Attack:
  """MI-FGSM as the paper evaluates with (section 5).

  Attributes:
    steps: number of steps; 0 attacks nothing.
    momentum: of the normalised gradients.
    radius: how far all steps together could go, in units of ε.
  """

  steps: int = 20
  momentum: float = 0.8
  radius: float = 2.0


def measure_standard(network: nn.Module) -> Measure:
  """The measure of each image's `prediction`; -1 where a logit is not finite."""

  def measure(params, images, labels):
    del labels
    logits = network.apply({"params": params}, to_unit_range(images))
    prediction = jnp.argmax(logits, axis=1)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    return {"prediction": jnp.where(finite, prediction, -1).astype(jnp.int32)}

  return measure


def measure_attack(
    network: nn.Module, epsilon: float, attack: Attack
) -> Measure:
  """The measure of whether an image stays `correct` under the attack.

  And of a `counterexample`: the point that the network gets wrong, or 0.
  """

  def measure(params, images, labels):
    def forward(x):
      return network.apply({"params": params}, x)

    images = to_unit_range(images)
    attacked = mi_fgsm(
        forward, images, *ball(images, epsilon), labels,
        step_size=attack.radius * epsilon / max(attack.steps, 1),
        steps=attack.steps, momentum=attack.momentum,
    )
    logits = forward(attacked)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    correct = finite & (jnp.argmax(logits, axis=1) == labels)
    kept = correct.reshape((-1,) + (1,) * (attacked.ndim - 1))
    return {
        "correct": correct,
        "counterexample": jnp.where(kept, 0, attacked),
    }

  return measure


def measure_region(network: nn.Module, domain: str, epsilon: float) -> Measure:
  """The measure of a domain's worst `margin`, and whether it is `proved`."""
  region = REGIONS[domain]

  def measure(params, images, labels):
    def forward(value, mode):
      return network.apply({"params": params}, value, mode)

    context = Context(forward, labels, epoch=jnp.zeros(()))
    lower, upper = ball(to_unit_range(images), epsilon, context.data_range)
    element = region.abstract(lower, upper, context)
    output = forward(element, Mode.CERTIFY)
    margin = region.margins(output, labels, context)
    # One decides what the other shows: whatever compiles them, nothing is proved
    # whose margin is not above 0.
    worst = losses.worst_margin(margin, labels)
    return {"proved": losses.proved(margin, labels) & (worst > 0), "margin": worst}

  return measure
