"""The paper's networks."""

from diffai_jax.networks.convnets import ConvNet
from diffai_jax.networks.describe import describe
from diffai_jax.networks.feedforward import FFNN
from diffai_jax.networks.registry import NETWORKS, canonical_name, create

__all__ = ["NETWORKS", "ConvNet", "FFNN", "canonical_name", "create", "describe"]
