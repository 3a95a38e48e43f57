"""The paper's networks."""

from diffai_jax.networks.abstract_layers import layers_of
from diffai_jax.networks.convnets import convnet, ffnn
from diffai_jax.networks.describe import describe
from diffai_jax.networks.fold import fold, folded, modules, normalises
from diffai_jax.networks.registry import NETWORKS, canonical_name, create

__all__ = [
    "NETWORKS",
    "canonical_name",
    "convnet",
    "create",
    "describe",
    "ffnn",
    "fold",
    "folded",
    "modules",
    "normalises",
    "layers_of",
]
