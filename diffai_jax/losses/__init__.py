"""Margins, what is proved from them, cross entropy, regularisers of bounds."""

from diffai_jax.losses.margins import (
    cross_entropy,
    deep_loss,
    margins,
    proved,
    worst_case_logits,
    worst_margin,
)

__all__ = [
    "cross_entropy",
    "deep_loss",
    "margins",
    "proved",
    "worst_case_logits",
    "worst_margin",
]
