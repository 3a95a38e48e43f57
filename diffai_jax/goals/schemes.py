"""Training schemes by name (paper, Table 2)."""

from diffai_jax.goals.base import Goal
from diffai_jax.goals.dsl import parse

SCHEMES: dict[str, str] = {
    "Baseline": (
        "Mix(Point, Sub(Lin(0, 1, 150, 10), Box), Lin(0, 0.5, 150, 10))"
    ),
}


def objective(text: str) -> Goal:
  """The goal that a text or the name of a scheme stands for.

  Raises:
    ObjectiveError: if it is neither; lists the names that are known.
  """
  return parse(text, SCHEMES)
