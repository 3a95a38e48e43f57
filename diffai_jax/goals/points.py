"""Goals on single points of the input box (paper, Table 1)."""

import dataclasses

from diffai_jax.goals.base import Context, Goal
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Point(Goal):
  """The center (l + u)/2 of the input box, and its cross entropy."""

  measures = "accuracy"

  def abstract(self, lower: Array, upper: Array, context: Context) -> Array:
    return (lower + upper) / 2
