"""The paper's networks."""

from diffai_jax.networks.abstract_layers import layers_of
from diffai_jax.networks.as_graph import graph_of, takes_mode
from diffai_jax.networks.certified import certified, certified_network
from diffai_jax.networks.convnets import convnet, ffnn
from diffai_jax.networks.describe import describe
from diffai_jax.networks.fold import fold, modules, normalises
from diffai_jax.networks.graph_network import GraphNetwork, network_of_graph
from diffai_jax.networks.plain import PlainNetwork
from diffai_jax.networks.registry import NETWORKS, canonical_name, create

__all__ = [
    "GraphNetwork",
    "NETWORKS",
    "PlainNetwork",
    "canonical_name",
    "certified",
    "certified_network",
    "convnet",
    "create",
    "describe",
    "ffnn",
    "fold",
    "graph_of",
    "modules",
    "network_of_graph",
    "normalises",
    "layers_of",
    "takes_mode",
]
