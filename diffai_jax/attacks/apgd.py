"""APGD: projected gradient ascent whose steps shrink where it makes no progress.

Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble
of diverse parameter-free attacks" (arXiv 2003.01690), algorithm 1.
"""

from collections.abc import Callable
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.attacks.stepwise import chosen_by_example
from diffai_jax.types import Array

_FIRST_STEP = 2.0  # In radii.
_MOMENTUM = 0.75  # α: how much of a step is the new one.
_SUCCESSES = 0.75  # ρ: the share of steps that must find a higher loss.

Move = Callable[[Array], Array]


@functools.cache
def checkpoints(steps: int) -> tuple[int, ...]:
  """w_1, w_2, …: after which iterations the step may be halved.

  w_j = ⌈p_j·steps⌉, with p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
  0.06). Those that few steps make equal are one.
  """
  percent, width, found = 22, 22, []
  while percent <= 100:
    found.append(-(-percent * steps // 100))
    width = max(width - 3, 6)
    percent += width
  return tuple(sorted({w for w in found if 0 < w < steps}))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ascent:
  """What APGD knows before it evaluates the point x(k).

  Attributes:
    point: x(k), [B, ...].
    previous: x(k-1), [B, ...].
    value: the loss at x(k-1), [B].
    best, best_gradient: the point with the highest loss of those evaluated, and
      the gradient there, [B, ...].
    best_value: the loss there, [B].
    step: η, in radii, [B].
    rises: how many iterations since the last checkpoint found a higher loss than
      at the point before, int32 [B].
    checked_value: the highest loss at the last checkpoint, [B].
    halved: whether the step was halved there, bool [B].
  """

  point: Array
  previous: Array
  value: Array
  best: Array
  best_gradient: Array
  best_value: Array
  step: Array
  rises: Array
  checked_value: Array
  halved: Array


def begin(points: Array) -> Ascent:
  """The state in which x(0) is still to be evaluated."""
  nothing = jnp.zeros(points.shape[0], points.dtype)
  return Ascent(
      point=points, previous=points, value=nothing, best=points,
      best_gradient=jnp.zeros_like(points), best_value=nothing,
      step=jnp.full_like(nothing, _FIRST_STEP),
      rises=jnp.zeros(points.shape[0], jnp.int32), checked_value=nothing,
      halved=jnp.zeros(points.shape[0], bool),
  )


def advance(
    state: Ascent,
    number: Array,
    values: Array,
    gradients: Array,
    steepest: Move,
    project: Move,
    steps: int,
) -> Ascent:
  """From x(k), evaluated, to x(k+1).

  Iteration k makes x(k+1). After iteration w_j the step is halved if, from w_{j-1}
  to w_j - 1, less than ρ of the iterations found a higher loss than at the point
  before, or if neither the step (at w_{j-1}) nor the highest loss up to x(w_j) has
  changed. Where it is, x(w_j + 1) is the best point.

  Args:
    state: the one before.
    number: k, from 0, a traced scalar.
    values: the loss at x(k), [B].
    gradients: its gradient there, [B, ...].
    steepest: gradients -> the steps of one radius along which the loss rises most.
    project: points -> the nearest points of the region.
    steps: how many iterations there are at all.
  """
  is_first = number == 0
  windows = np.zeros(steps + 2, np.int32)  # By k: w_j - w_{j-1} at k = w_j + 1.
  for last, place in zip((0, *checkpoints(steps)), checkpoints(steps)):
    windows[place + 1] = place - last
  window = jnp.asarray(windows)[number]
  checked = window > 0
  few = state.rises < _SUCCESSES * window
  stuck = ~state.halved & (state.checked_value == state.best_value)
  halve = checked & (few | stuck)

  better = is_first | (values > state.best_value) | jnp.isnan(state.best_value)
  best = chosen_by_example(better, state.point, state.best)
  best_gradient = chosen_by_example(better, gradients, state.best_gradient)
  best_value = jnp.where(better, values, state.best_value)
  # What was the highest before x(w_j + 1).
  checked_value = jnp.where(checked, state.best_value, state.checked_value)

  point = chosen_by_example(halve, best, state.point)
  gradient = chosen_by_example(halve, best_gradient, gradients)
  value = jnp.where(halve, best_value, values)
  step = jnp.where(halve, state.step / 2, state.step)
  rises = jnp.where(checked, 0, state.rises) + (value > state.value)

  reach = step.reshape(step.shape + (1,) * (point.ndim - 1))
  moved = project(point + reach * steepest(gradient))
  way = _MOMENTUM * (moved - point) + (1 - _MOMENTUM) * (point - state.previous)
  following = project(point + way)
  return Ascent(
      point=jnp.where(is_first, moved, following),
      previous=point,
      value=value,
      best=best, best_gradient=best_gradient, best_value=best_value,
      step=step,
      rises=jnp.where(is_first, 0, rises),
      checked_value=jnp.where(is_first, values, checked_value),
      halved=jnp.where(checked, halve, state.halved),
  )
