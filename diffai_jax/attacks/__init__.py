"""Attacks that look for a counterexample in a box."""

from diffai_jax.attacks.iterated import (
    Forward,
    MomentumState,
    mi_fgsm,
    mi_fgsm_start,
    mi_fgsm_step,
    pgd,
)

__all__ = [
    "Forward",
    "MomentumState",
    "mi_fgsm",
    "mi_fgsm_start",
    "mi_fgsm_step",
    "pgd",
]
