"""Objectives as text: goals of the paper, schemes, DiffAI v3's command lines."""

from diffai_jax.objectives.dsl import parse, parse_value
from diffai_jax.objectives.schemes import SCHEMES, objective
from diffai_jax.objectives.syntax import ObjectiveError

__all__ = ["ObjectiveError", "SCHEMES", "objective", "parse", "parse_value"]
