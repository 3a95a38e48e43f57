"""Branch and bound over many images at once."""

from diffai_jax.branching.search import search
from diffai_jax.branching.settings import Found, Settings, State

__all__ = ["Found", "Settings", "State", "search"]
