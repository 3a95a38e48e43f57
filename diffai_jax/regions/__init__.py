"""What an input may be: sets of points around given ones."""

from diffai_jax.regions.linf import Linf

__all__ = ["Linf"]
