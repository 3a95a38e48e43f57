"""Goals on points that an attack finds in the input box (paper, Table 1).

An attack's parameters are numbers or schedules, its numbers of steps too. Steps
are shares of the box's radius ½(u - l), pixel by pixel. Attacks start at the
box's center and take all their steps; the network's parameters get no gradient
through them, only through the loss at the point found.
"""

import dataclasses

import jax.numpy as jnp

from diffai_jax import attacks
from diffai_jax.goals.base import Context
from diffai_jax.goals.points import PointGoal
from diffai_jax.schedules import NumberOrSchedule, Schedule, extent, value_at
from diffai_jax.types import Array, Mode


class _Attack(PointGoal):
  """Base: a subclass has `steps`, and what differs from these."""

  step = None  # 1/steps.
  momentum = 0.0
  restarts = 1
  random_start = False

  def check(self) -> None:
    name = type(self).__name__
    for what, value, least in (
        ("steps", self.steps, 0), ("restarts", self.restarts, 1)
    ):
      low, high = extent(value)
      whole = isinstance(value, Schedule) or value == int(value)
      if low < least or high > 10_000 or not whole:
        raise ValueError(
            f"{name}'s {what} must be a whole number from {least} to 10000,"
            f" not {value}"
        )
    for what in ("step", "momentum"):
      value = getattr(self, what)
      if value is not None and extent(value)[0] < 0:
        raise ValueError(f"{name}'s {what} must not be below 0")

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    steps = whole(self.steps, context)
    if self.step is None:
      step_size = 1 / jnp.maximum(steps, 1)
    else:
      step_size = value_at(self.step, context.epoch)
    restarts = whole(self.restarts, context)
    draws = self.random_start or self.restarts != 1
    return attacks.pgd(
        lambda x: context.forward(x, Mode.CONCRETE),
        lower,
        upper,
        context.labels,
        steps=steps,
        step_size=step_size,
        momentum=value_at(self.momentum, context.epoch),
        restarts=restarts,
        random_start=self.random_start,
        keys=context.keys(self) if draws else None,
        data_range=context.data_range,
    )


def whole(value: NumberOrSchedule, context: Context) -> int | Array:
  """A number of times, static if it is no schedule."""
  if isinstance(value, Schedule):
    return jnp.round(value(context.epoch)).astype(jnp.int32)
  return int(value)


@dataclasses.dataclass(frozen=True)
class FGSM(_Attack):
  """One step of `step` radii from the center (Goodfellow et al. 2015)."""

  step: NumberOrSchedule = 1

  steps = 1


@dataclasses.dataclass(frozen=True)
class IFGSM(_Attack):
  """IFGSM_k: k steps of radius/k from the center."""

  steps: NumberOrSchedule = 5


@dataclasses.dataclass(frozen=True)
class PGD(_Attack):
  """Projected gradient ascent from random points (Madry et al. 2018).

  Attributes:
    steps: from each start.
    step: a step, in radii.
    restarts: number of random starts; the one with the highest loss counts.
  """

  steps: NumberOrSchedule = 20
  step: NumberOrSchedule = 0.25
  restarts: NumberOrSchedule = 1

  random_start = True


@dataclasses.dataclass(frozen=True)
class MIFGSM(_Attack):
  """Momentum iterative FGSM (Dong et al. 2018), with the paper's defaults.

  Attributes:
    steps: from each start.
    step: a step, in radii.
    momentum: μ, of gradients over their own L1 norms.
    restarts: number of starts: the center first, then random points.
  """

  steps: NumberOrSchedule = 20
  step: NumberOrSchedule = 0.1
  momentum: NumberOrSchedule = 0.8
  restarts: NumberOrSchedule = 1
