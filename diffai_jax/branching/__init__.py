"""Branch and bound over many images at once."""

from diffai_jax.branching.proofs import Proofs
from diffai_jax.branching.search import search
from diffai_jax.branching.settings import Found, Settings, State

__all__ = ["Found", "Proofs", "Settings", "State", "search"]
