"""Goals on single points of the input box (paper, Table 1)."""

import dataclasses
from typing import Callable

import jax
import jax.numpy as jnp

from diffai_jax.goals.base import Context, Goal
from diffai_jax.types import Array, PRNGKey


class PointGoal(Goal):
  """Base of goals whose `abstract` gives one point; cross entropy at it."""

  measures = "accuracy"


@dataclasses.dataclass(frozen=True)
class Point(PointGoal):
  """The center (l + u)/2 of the input box, and its cross entropy."""

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    return (lower + upper) / 2


@dataclasses.dataclass(frozen=True)
class Normal(PointGoal):
  """½(l + u) + ½(u - l)·N(0, 1) in each variable, clipped to [l, u]."""

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    noise = _draw(self, jax.random.normal, lower, context)
    moved = (lower + upper) / 2 + (upper - lower) / 2 * noise
    return jnp.clip(moved, lower, upper)


@dataclasses.dataclass(frozen=True)
class Uniform(PointGoal):
  """A point drawn uniformly from [l, u]."""

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    noise = _draw(self, jax.random.uniform, lower, context)
    return jnp.clip(lower + (upper - lower) * noise, lower, upper)


def _draw(
    goal: Goal, distribution: Callable[[PRNGKey, tuple, object], Array],
    like: Array, context: Context,
) -> Array:
  """Random numbers of the shape of `like`, each example's from its own key."""
  keys = context.keys(goal)
  draw = lambda key: distribution(key, like.shape[1:], like.dtype)
  return jax.vmap(draw)(keys)


@dataclasses.dataclass(frozen=True)
class Original(PointGoal):
  """The center of the box that the surrounding AdvDom or BiSample was given."""

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    return _shared(self, context)[0]


@dataclasses.dataclass(frozen=True)
class Attacked(PointGoal):
  """The point that the surrounding AdvDom or BiSample's first goal found."""

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    return _shared(self, context)[1]


def _shared(goal: Goal, context: Context) -> tuple[Array, Array]:
  if context.shared is None:
    raise ValueError(f"{goal} only has a meaning within AdvDom or BiSample")
  return context.shared
