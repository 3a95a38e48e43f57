"""Schedules of training parameters (paper, section 4.1)."""

from diffai_jax.schedules.piecewise import (
    Clip,
    Complement,
    Lin,
    Scale,
    Schedule,
    Smooth,
    Staircase,
    Until,
    Value,
    extent,
    require_share,
    settled_at,
    value_at,
)

__all__ = [
    "Clip",
    "Complement",
    "Lin",
    "Scale",
    "Schedule",
    "Smooth",
    "Staircase",
    "Until",
    "Value",
    "extent",
    "require_share",
    "settled_at",
    "value_at",
]
