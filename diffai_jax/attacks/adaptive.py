"""Attacks whose steps shrink by themselves: both kinds of APGD."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.attacks import apgd
from diffai_jax.attacks.attack_losses import attack_loss, runners_up
from diffai_jax.attacks.stepwise import (
    Problem,
    StepwiseAttack,
    chosen_by_example,
    no_calls,
)
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Ascents:
  """What APGD knows between two calls.

  Attributes:
    number: how many calls there were, int32 [B].
    ascent: from the present start.
    targets: the classes that starts go towards, int32 [B, T].
    found: whether a misclassified point was met, bool [B].
    wrong: the first such point, or 0, [B, ...].
  """

  number: Array
  ascent: apgd.Ascent
  targets: Array
  found: Array
  wrong: Array


class _Ascending(StepwiseAttack):
  """Base of both kinds of APGD: with `loss`, and perhaps classes to go towards."""

  def __str__(self) -> str:
    """The steps always stand in it: "APGD(100)"."""
    text = super().__str__()
    if self.steps != type(self).steps:
      return text
    name, has_others, others = text.partition("(")
    return f"{name}({self.steps}{', ' + others if has_others else ')'}"

  def classes_towards(self, problem: Problem) -> Array:
    """int32 [B, T]; none where any class will do."""
    return jnp.zeros((problem.images.shape[0], 0), jnp.int32)

  def begin(self, problem: Problem) -> _Ascents:
    first = problem.drawn(0)
    return _Ascents(
        number=no_calls(problem), ascent=apgd.begin(first),
        targets=self.classes_towards(problem),
        found=jnp.zeros(first.shape[0], bool), wrong=jnp.zeros_like(first),
    )

  def advance(self, problem: Problem, state: _Ascents) -> _Ascents:
    call = state.number[0]  # Of all examples.
    start, number = call // (self.steps + 1), call % (self.steps + 1)
    targets = None
    if state.targets.shape[1]:
      targets = state.targets[:, start // self.restarts]

    def loss(x: Array):
      logits = problem.forward(x)
      values = attack_loss(self.loss, logits, problem.labels, targets)
      return values.sum(), (values, problem.wrong(logits))

    x = state.ascent.point
    gradients, (values, wrong) = jax.grad(loss, has_aux=True)(x)
    after = apgd.advance(
        state.ascent, number, values,
        jnp.where(jnp.isfinite(gradients), gradients, 0),
        problem.region.steepest, problem.project, self.steps,
    )
    if self.starts(problem.classes) > 1:
      again = lambda: apgd.begin(problem.drawn(start + 1))
      after = lax.cond(number == self.steps, again, lambda: after)
    first = wrong & ~state.found
    return _Ascents(
        state.number + 1, after, state.targets, state.found | wrong,
        chosen_by_example(first, x, state.wrong),
    )

  def points(self, state: _Ascents) -> Array:
    return chosen_by_example(state.found, state.wrong, state.ascent.point)


@dataclasses.dataclass(frozen=True)
class APGD(_Ascending):
  """APGD towards any other class; see `attacks.apgd`.

  Attributes:
    steps: from each start, a random point.
    loss: CE or DLR; see `attacks.attack_losses`.
    restarts: number of starts.
  """

  steps: int = 100
  loss: str = "CE"
  restarts: int = 1


@dataclasses.dataclass(frozen=True)
class APGDTargeted(_Ascending):
  """APGD towards each of the classes that are next to the label at the image.

  Attributes:
    steps: from each start, a random point.
    loss: DLR or CE, of the target.
    restarts: number of starts towards each class.
    targets: towards how many classes, those with the highest logits first; no
      more than there are.
  """

  steps: int = 100
  loss: str = "DLR"
  restarts: int = 1
  targets: int = 9

  def starts(self, classes: int) -> int:
    return self.restarts * min(self.targets, classes - 1)

  def classes_towards(self, problem: Problem) -> Array:
    logits = problem.forward(problem.images)
    count = min(self.targets, problem.classes - 1)
    return runners_up(logits, problem.labels, count)
