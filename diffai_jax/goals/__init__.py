"""Training goals (paper, section 4): regions to train on, and losses on them."""

from diffai_jax.goals.active import active_at, active_goals
from diffai_jax.goals.attacked import FGSM, IFGSM, MIFGSM, PGD
from diffai_jax.goals.base import Context, Goal
from diffai_jax.goals.combinators import (
    AdvDom,
    BiSample,
    NormalSub,
    Sample,
    Shrunk,
    SmallBox,
    Sub,
)
from diffai_jax.goals.crown import CROWN_IBP
from diffai_jax.goals.mixtures import Coin, Mix, MixLogs, MixMargins, Weighted
from diffai_jax.goals.points import Attacked, Normal, Original, Point, Uniform
from diffai_jax.goals.regions import REGIONS, Box, HBox, ball
from diffai_jax.goals.taps import TAPS

__all__ = [
    "AdvDom",
    "Attacked",
    "BiSample",
    "Box",
    "CROWN_IBP",
    "Coin",
    "Context",
    "FGSM",
    "Goal",
    "HBox",
    "IFGSM",
    "MIFGSM",
    "Mix",
    "MixLogs",
    "MixMargins",
    "Normal",
    "NormalSub",
    "Original",
    "PGD",
    "Point",
    "REGIONS",
    "Sample",
    "Shrunk",
    "SmallBox",
    "Sub",
    "TAPS",
    "Uniform",
    "Weighted",
    "active_at",
    "active_goals",
    "ball",
]
