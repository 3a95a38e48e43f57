"""A network as data: its calls of transformers, and what reads them."""

from diffai_jax.graph.building import Builder, Recording
from diffai_jax.graph.from_jax import from_jax
from diffai_jax.graph.from_onnx import from_onnx
from diffai_jax.graph.graph import Call, Graph
from diffai_jax.graph.record import record
from diffai_jax.graph.saving import load, save
from diffai_jax.graph.surgery import (
    correlate_before_last,
    keep,
    simplify,
    split,
)

__all__ = [
    "Builder",
    "Call",
    "Graph",
    "Recording",
    "correlate_before_last",
    "from_jax",
    "from_onnx",
    "keep",
    "load",
    "record",
    "save",
    "simplify",
    "split",
]
