"""Attacks that look for a counterexample in a region."""

from diffai_jax.attacks.adaptive import APGD, APGDTargeted
from diffai_jax.attacks.fixed_steps import MIFGSM, PGD
from diffai_jax.attacks.iterated import (
    Forward,
    MomentumState,
    mi_fgsm,
    mi_fgsm_start,
    mi_fgsm_step,
    pgd,
)
from diffai_jax.attacks.stepwise import Problem, StepwiseAttack, attacked

__all__ = [
    "APGD", "APGDTargeted", "Forward", "MIFGSM", "MomentumState", "PGD",
    "Problem", "StepwiseAttack", "attacked", "mi_fgsm", "mi_fgsm_start",
    "mi_fgsm_step", "pgd",
]
