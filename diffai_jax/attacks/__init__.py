"""Attacks that look for a counterexample in a box."""

from diffai_jax.attacks.iterated import (
    Forward,
    mi_fgsm,
    pgd,
)

__all__ = [
    "Forward",
    "mi_fgsm",
    "pgd",
]
