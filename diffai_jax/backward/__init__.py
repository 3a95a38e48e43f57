"""Linear bounds of a graph, walked from its output to the input region."""

from diffai_jax.backward.alpha import chosen_slopes
from diffai_jax.backward.inner import Inner, inner_bounds
from diffai_jax.backward.walk import (
    Way,
    at_input,
    over_box,
    prepared,
    upper_bounds,
    walked_back,
    way_to,
)

__all__ = [
    "Inner", "Way", "at_input", "chosen_slopes", "inner_bounds", "over_box",
    "prepared", "upper_bounds", "walked_back", "way_to",
]
