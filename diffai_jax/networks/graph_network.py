"""A graph as a Flax module, so that it is trained and certified like any network."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.domains.product import Value
from diffai_jax.graph import Graph
from diffai_jax.types import Array, Mode


class Initial:
  """The weights that a graph came with: what `init` gives.

  All are equal, since a program does not depend on them.
  """

  def __init__(self, leaves: Mapping[str, Array]):
    self.leaves = dict(leaves)

  def __eq__(self, other) -> bool:
    return isinstance(other, Initial)

  def __hash__(self) -> int:
    return hash(Initial)


class GraphNetwork(nn.Module):
  """The network that a graph is; its arrays are the parameters.

  Called in any mode: which abstract layers are calls was decided when the graph
  was read.

  Attributes:
    structure: the graph without its arrays.
    initial: its arrays, or their shapes where weights are always given.
  """

  structure: Any
  initial: Initial

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    params = {
        name: self.param(name, lambda key, leaf=leaf: _array(leaf))
        for name, leaf in self.initial.leaves.items() if not _is_key(leaf)
    }
    return self.graph(params)(x)

  def graph(self, params: Mapping[str, Array]) -> Graph:
    """The graph with these weights, by name."""
    leaves = self.initial.leaves
    return jax.tree.unflatten(
        self.structure, [params.get(name, leaves[name]) for name in leaves]
    )


def network_of_graph(graph: Graph) -> tuple[GraphNetwork, dict[str, Array]]:
  """The network that a graph is, and its weights."""
  paths, structure = jax.tree.flatten_with_path(graph)
  # calls, number, arrays, parameter: "12_kernel".
  leaves = {f"{path[1].idx}_{path[3].key}": leaf for path, leaf in paths}
  params = {name: leaf for name, leaf in leaves.items() if not _is_key(leaf)}
  return GraphNetwork(structure, Initial(leaves)), params


def _array(leaf: Array | jax.ShapeDtypeStruct) -> Array:
  """A weight; of a shape alone, which other weights will have, zeros."""
  if isinstance(leaf, jax.ShapeDtypeStruct):
    return jnp.zeros(leaf.shape, leaf.dtype)
  return jnp.asarray(leaf)


def _is_key(leaf: Array) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
