"""Training goals (paper, section 4): regions to train on, and losses on them."""

from diffai_jax.goals.base import Context, Goal
from diffai_jax.goals.combinators import Mix, Sub
from diffai_jax.goals.dsl import ObjectiveError, parse
from diffai_jax.goals.points import Point
from diffai_jax.goals.regions import REGIONS, Box, HBox, ball
from diffai_jax.goals.schemes import SCHEMES, objective

__all__ = [
    "Box",
    "Context",
    "Goal",
    "HBox",
    "Mix",
    "ObjectiveError",
    "Point",
    "REGIONS",
    "SCHEMES",
    "Sub",
    "ball",
    "objective",
    "parse",
]
