"""Networks of any kind as graphs."""

from collections.abc import Mapping, Sequence
import inspect

from flax import linen as nn
import numpy as np

from diffai_jax.graph import Graph, record
from diffai_jax.networks.graph_network import GraphNetwork
from diffai_jax.types import Mode


def graph_of(
    network: nn.Module,
    variables: Mapping,
    input_shape: Sequence[int],
    mode: Mode = Mode.CONCRETE,
    dtype=np.float32,
) -> Graph:
  """The graph of a network with these variables, which may be traced.

  Args:
    network: of our layers, called as network(value, mode); or a GraphNetwork.
    variables: its collections.
    input_shape: of one example.
    mode: which abstract layers are calls.
    dtype: what the network computes in.

  Raises:
    TypeError: if something but layers and transformers is called, or JAX or Flax
      transforms a layer (`nn.jit`, `nn.scan`).
  """
  if isinstance(network, GraphNetwork):
    return network.graph(variables["params"])
  if getattr(network, "remat", False):
    # What is recorded inside of a rematerialised layer could not leave it.
    network = network.clone(remat=False)
  return record(
      lambda x: network.apply(variables, x, mode), input_shape, dtype
  )


def takes_mode(network: nn.Module) -> bool:
  """Whether a module is called as network(value, mode), as ours are."""
  try:
    inspect.signature(network.__call__).bind(None, Mode.TRAIN)
  except TypeError:
    return False
  return "mode" in inspect.signature(network.__call__).parameters
