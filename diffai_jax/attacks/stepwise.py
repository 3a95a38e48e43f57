"""Attacks that look for one misclassified point of each region, and keep it.

Each is a frozen dataclass that prints as text, such as `APGD(100, DLR)`, and takes
equal steps, of which each may be one compiled program. What is drawn at random
depends on each example's key and on the number of the start alone.
"""

import dataclasses
import numbers

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.attacks.attack_losses import LOSSES
from diffai_jax.attacks.iterated import Forward, is_wrong
from diffai_jax.kernels.loops import repeat
from diffai_jax.regions import L2, Bounds, Linf
from diffai_jax.text.terms import Term
from diffai_jax.types import Array, PRNGKey, shown

Region = Linf | L2 | Bounds
_MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Problem:
  """What an attack is tried on.

  Attributes:
    forward: the concrete network, [B, ...] -> logits [B, K].
    images: floats, [B, ...].
    region: around each image.
    labels: int, [B].
    keys: a random key for each example, [B].
    classes: K.
  """

  forward: Forward
  images: Array
  region: Region
  labels: Array
  keys: PRNGKey
  classes: int

  def project(self, points: Array) -> Array:
    return self.region.project(points, self.images)

  def drawn(self, start: Array) -> Array:
    """Points of the region for a start's number, from 0, a traced scalar."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(self.keys, start)
    return self.region.sample(keys, self.images)

  def wrong(self, logits: Array) -> Array:
    """Which logits are not finite, or highest at another class; bool [B]."""
    return is_wrong(logits, self.labels)


class StepwiseAttack(Term):
  """Base: a subclass is a frozen dataclass with `steps` and `restarts`.

  A start is a point and `steps` steps from it, each of which begins with an
  evaluation. Between two starts there is one call more: it evaluates the last point
  of the one, and draws the first of the other.
  """

  def calls(self, classes: int) -> int:
    """How often `advance` is called, for a network of so many classes."""
    return self.starts(classes) * (self.steps + 1) - 1

  def starts(self, classes: int) -> int:
    """How many starts there are in all."""
    del classes
    return self.restarts

  def begin(self, problem: Problem):
    """The state before the first step, a pytree of arrays [B, ...]."""
    raise NotImplementedError

  def advance(self, problem: Problem, state):
    """The state after one step."""
    raise NotImplementedError

  def points(self, state) -> Array:
    """The misclassified points that were met, or the last ones, [B, ...].

    Whether the last ones are misclassified is not known yet.
    """
    raise NotImplementedError

  def check(self) -> None:
    for name, least in (("steps", 0), ("restarts", 1), ("targets", 1)):
      value = getattr(self, name, least)
      whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
      if not whole or not least <= value <= _MOST:
        raise ValueError(
            f"{name} is {shown(value)}; expected a whole number from {least} to"
            f" {_MOST}"
        )
    for name in ("step", "momentum"):
      value = getattr(self, name, 0)
      real = isinstance(value, numbers.Real) and not isinstance(value, bool)
      if not real or not 0 <= value < float("inf"):
        raise ValueError(
            f"{name} is {shown(value)}; expected a finite number of at least 0"
        )
    if getattr(self, "loss", "CE") not in LOSSES:
      raise ValueError(
          f"the loss is {shown(self.loss)}; expected {' or '.join(LOSSES)}"
      )


def attacked(attack: StepwiseAttack, problem: Problem) -> Array:
  """All steps of an attack, as part of one program.

  Returns:
    Points of the region, [B, ...]: one that is misclassified, or the last one.
  """
  state = attack.begin(problem)
  step = lambda _, state: attack.advance(problem, state)
  state = repeat(attack.calls(problem.classes), step, state)
  return lax.stop_gradient(attack.points(state))


def no_calls(problem: Problem) -> Array:
  """How many calls there were, for each example: int32 [B]."""
  return jnp.zeros(problem.images.shape[0], jnp.int32)


def chosen_by_example(chosen: Array, these: Array, those: Array) -> Array:
  """`these` where an example is chosen, `those` elsewhere, [B, ...]."""
  shape = chosen.shape + (1,) * (these.ndim - chosen.ndim)
  return jnp.where(chosen.reshape(shape), these, those)
