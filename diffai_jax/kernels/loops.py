"""Loops whose steps are written out where that is faster."""

from collections.abc import Callable

import jax
from jax import lax

from diffai_jax.kernels.platforms import on_cpu
from diffai_jax.types import Array

# Up to so many operations steps are written out one after the other on CPUs:
# XLA's programs take twice as long in a loop. Beyond, compiling takes long.
_UNROLLED = 3000


def repeat(steps: int | Array, step: Callable, state):
  """The state after `steps` of state = step(number, state).

  Args:
    steps: how many; may be traced.
    step: of the step's number and a pytree of arrays.
    state: the first one.
  """

  def loop(state):
    return lax.fori_loop(0, steps, step, state)

  def unrolled(state):
    for number in range(steps):
      state = step(number, state)
    return state

  if not isinstance(steps, int):
    return loop(state)
  size = len(jax.make_jaxpr(step)(0, state).eqns)
  if steps * size > _UNROLLED:
    return loop(state)
  return on_cpu(unrolled, loop, state)
