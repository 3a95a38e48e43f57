"""Abstract domains: what an input region is turned into."""

from diffai_jax.domains.generators import Dense, Diagonal
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    box,
    correlated_box,
    from_bounds,
    lower,
    point,
    radius,
    upper,
)
from diffai_jax.domains.identity import fresh_symbol
from diffai_jax.domains.product import Product, example_shape, parts

__all__ = [
    "Dense",
    "Diagonal",
    "HybridZonotope",
    "Product",
    "box",
    "correlated_box",
    "example_shape",
    "fresh_symbol",
    "from_bounds",
    "lower",
    "parts",
    "point",
    "radius",
    "upper",
]
