"""A network as data: its calls of transformers, and what reads them."""

from diffai_jax.graph.building import Builder, Recording
from diffai_jax.graph.graph import Call, Graph
from diffai_jax.graph.record import record

__all__ = ["Builder", "Call", "Graph", "Recording", "record"]
