"""Transformers: functions on arrays, and their sound versions on elements.

Each is a pure function `f(x, ...)`. On an array [B, ...] it is the concrete
function; on an element it returns an element with f(γ(h)) ⊆ γ(f(h)); on a
Product it does both to its parts.
"""

from diffai_jax.transformers.affine import conv, dense, scale_shift
from diffai_jax.transformers.correlation import correlate_all
from diffai_jax.transformers.relu import relu
from diffai_jax.transformers.structure import flatten, reshape

__all__ = [
    "conv",
    "correlate_all",
    "dense",
    "flatten",
    "relu",
    "reshape",
    "scale_shift",
]
