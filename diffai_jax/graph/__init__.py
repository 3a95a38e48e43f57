"""A network as data: its calls of transformers, and what reads them."""

from diffai_jax.graph.building import Builder, Recording
from diffai_jax.graph.following import (
    Followed,
    after,
    alone,
    follow,
    named_by_layers,
    plain,
)
from diffai_jax.graph.from_jax import from_jax
from diffai_jax.graph.from_onnx import from_onnx
from diffai_jax.graph.graph import Call, Graph
from diffai_jax.graph.record import record
from diffai_jax.graph.saving import load, save
from diffai_jax.graph.surgery import (
    correlate_before_last,
    cuts,
    keep,
    simplify,
    split,
)

__all__ = [
    "Builder",
    "Call",
    "Followed",
    "Graph",
    "Recording",
    "after",
    "alone",
    "correlate_before_last",
    "cuts",
    "follow",
    "from_jax",
    "from_onnx",
    "keep",
    "load",
    "named_by_layers",
    "plain",
    "record",
    "save",
    "simplify",
    "split",
]
