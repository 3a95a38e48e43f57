"""Schedules of training parameters (paper, section 4.1)."""

from diffai_jax.schedules.piecewise import (
    Clip,
    Complement,
    Lin,
    NumberOrSchedule,
    Scale,
    Schedule,
    Smooth,
    Staircase,
    Until,
    extent,
    require_share,
    settled_at,
    value_at,
)

__all__ = [
    "Clip",
    "Complement",
    "Lin",
    "NumberOrSchedule",
    "Scale",
    "Schedule",
    "Smooth",
    "Staircase",
    "Until",
    "extent",
    "require_share",
    "settled_at",
    "value_at",
]
