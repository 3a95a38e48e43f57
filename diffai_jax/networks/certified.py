"""The network that is certified: what training made, without normalisation."""

from collections.abc import Mapping, Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.graph import simplify
from diffai_jax.networks.as_graph import graph_of
from diffai_jax.networks.fold import fold
from diffai_jax.networks.graph_network import (
    GraphNetwork,
    Initial,
    network_of_graph,
)
from diffai_jax.networks.plain import PlainNetwork
from diffai_jax.types import Mode


def certified(
    network: nn.Module,
    variables: Mapping,
    input_shape: Sequence[int],
    dtype=np.float32,
) -> tuple[nn.Module, dict]:
  """The same function without BatchNorm layers, and its weights.

  A chain of our layers stays one (`fold`). A network of plain layers becomes the
  graph that it is, with the abstract layers that certification has.

  Args:
    network: called as network(value, mode).
    variables: its collections.
    input_shape: of one example.
    dtype: what it computes in.

  Raises:
    UsageError: if normalisation cannot be folded, or a plain network does what
      has no transformer.
    KeyError: if the variables are another network's.
  """
  if not isinstance(network, PlainNetwork):
    return fold(network, dict(variables))
  graph = graph_of(network, variables, input_shape, Mode.CERTIFY, dtype)
  return network_of_graph(simplify(graph))


def certified_network(
    network: nn.Module, input_shape: Sequence[int]
) -> nn.Module:
  """The network that `certified` gives, whatever the weights.

  Weights that were certified and saved are this network's.

  Raises:
    UsageError: as `certified` does.
  """
  found = []

  def run():
    image = jnp.zeros((1, *input_shape))
    variables = network.init(jax.random.key(0), image)
    made, params = certified(network, variables, input_shape)
    if isinstance(made, GraphNetwork):
      # Traced weights must not leave this function.
      like = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      made = made.clone(initial=Initial({k: like(w) for k, w in params.items()}))
    found.append(made)

  jax.eval_shape(run)
  return found[0]
