"""Flax modules that take a Mode: concrete layers and abstract layers."""

from diffai_jax.nn.abstract import CorrelateAll
from diffai_jax.nn.layers import Conv2D, Linear, Normalize, ReLU

__all__ = ["Conv2D", "CorrelateAll", "Linear", "Normalize", "ReLU"]
