"""Attacks with steps of one size: MI-FGSM and PGD."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.attacks.iterated import (
    MomentumState,
    mi_fgsm_start,
    mi_fgsm_step,
)
from diffai_jax.attacks.stepwise import (
    Problem,
    StepwiseAttack,
    chosen_by_example,
    no_calls,
)
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Iterated:
  """Attributes: how many calls there were, int32 [B]; what MI-FGSM knows."""

  number: Array
  state: MomentumState


class _FixedSteps(StepwiseAttack):
  """Base of attacks with steps of one size, which end at the first success."""

  momentum = 0.0
  starts_at_image = False

  def begin(self, problem: Problem) -> _Iterated:
    first = problem.images if self.starts_at_image else problem.drawn(0)
    state = mi_fgsm_start(first, *problem.region.bounds(problem.images))
    return _Iterated(no_calls(problem), state)

  def advance(self, problem: Problem, state: _Iterated) -> _Iterated:
    move = lambda x, direction: problem.project(
        x + self.step * problem.region.steepest(direction)
    )
    number = state.number[0]  # Of all examples.
    after = mi_fgsm_step(
        problem.forward, state.state, problem.labels, move,
        momentum=self.momentum,
    )
    if self.restarts > 1:
      start = number // (self.steps + 1) + 1
      again = lambda: dataclasses.replace(
          after, direction=jnp.zeros_like(after.direction),
          point=chosen_by_example(after.found, after.point, problem.drawn(start)),
      )
      is_last = number % (self.steps + 1) == self.steps
      after = lax.cond(is_last, again, lambda: after)
    return _Iterated(state.number + 1, after)

  def points(self, state: _Iterated) -> Array:
    return state.state.point


@dataclasses.dataclass(frozen=True)
class MIFGSM(_FixedSteps):
  """Momentum iterative FGSM (Dong et al. 2018), the paper's evaluation attack.

  Attributes:
    steps: from each start.
    step: a step, in the region's radii.
    momentum: μ, of gradients over their own L1 norms.
    restarts: number of starts: the image first, then random points.
  """

  steps: int = 20
  step: float = 0.1
  momentum: float = 0.8
  restarts: int = 1

  starts_at_image = True


@dataclasses.dataclass(frozen=True)
class PGD(_FixedSteps):
  """Projected gradient ascent from random points (Madry et al. 2018).

  Attributes:
    steps: from each start.
    step: a step, in the region's radii.
    restarts: number of starts.
  """

  steps: int = 20
  step: float = 0.25
  restarts: int = 1
