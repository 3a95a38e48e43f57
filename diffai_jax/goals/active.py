"""The active goal of each step: the objective without its parts of weight 0.

A part of weight 0 should cost nothing, and under jit everything in the program
runs. So the goal itself, which is static, changes: it is replaced by one
without the parts whose weight is 0 and those that a Coin has not drawn. A step
is compiled once for each different goal, such as twice for a Mix whose weight
leaves 0, and never because an epoch has passed.
"""

from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.goals.base import Goal, Weighed, walk
from diffai_jax.types import Array, PRNGKey


# Steps whose goals are looked up together. Divides 2**31, so that the last
# block of the longest run stays within int32.
_BLOCK = 4096


def active_at(
    goal: Goal,
    epoch_of: Callable[[Array], Array],
    batch_key_of: Callable[[Array], PRNGKey],
) -> Callable[[int], Goal]:
  """The active goal as a function of the step.

  It is computed for a block of steps at a time, at the first call for one of
  them: memory does not grow with the run.

  Args:
    goal: the objective.
    epoch_of: numbers of steps [N] -> epochs on the schedules' clock [N].
    batch_key_of: the number of a step -> the key that its coins are drawn with.
  """

  @functools.lru_cache(maxsize=2)
  def block(number: int) -> tuple[list[Goal], np.ndarray]:
    steps = number * _BLOCK + jnp.arange(_BLOCK, dtype=jnp.int32)
    return active_goals(goal, epoch_of(steps), jax.vmap(batch_key_of)(steps))

  def at(step: int) -> Goal:
    number, place = divmod(step, _BLOCK)
    objectives, which = block(number)
    return objectives[which[place]]

  return at


def active_goals(
    goal: Goal, epochs: Array, batch_keys: PRNGKey
) -> tuple[list[Goal], np.ndarray]:
  """The active goals, and which one of them each step has.

  Args:
    goal: the objective.
    epochs: of each step, on the schedules' clock, [N].
    batch_keys: the key of each step that its coins are drawn with, [N].

  Returns:
    Different goals, and the number of each step's in them, int [N]. Their
    losses are those of `goal` at these steps.
  """
  weighed = list(dict.fromkeys(
      term for term in walk(goal) if isinstance(term, Weighed)
  ))
  if not weighed or not len(epochs):
    return [goal], np.zeros(len(epochs), int)
  active = [
      np.asarray(jax.vmap(term.weights)(epochs, batch_keys)) != 0
      for term in weighed
  ]
  counts = [row.shape[1] for row in active]
  rows, which = np.unique(
      np.concatenate(active, axis=1), axis=0, return_inverse=True
  )
  splits = np.cumsum(counts)[:-1]
  found, numbers = [], []
  for row in rows:
    kept = {
        term: tuple(map(bool, mask))
        for term, mask in zip(weighed, np.split(row, splits))
    }
    reduced = _reduced(goal, kept)
    if reduced not in found:
      found.append(reduced)
    numbers.append(found.index(reduced))
  return found, np.asarray(numbers)[which.reshape(-1)]


def _reduced(goal: Goal, kept: Mapping[Goal, tuple[bool, ...]]) -> Goal:
  """The goal with what is not kept left out, from the inside out."""
  inner = goal.with_children(
      iter([_reduced(child, kept) for child in goal.children()])
  )
  return inner.only(kept[goal]) if isinstance(goal, Weighed) else inner
