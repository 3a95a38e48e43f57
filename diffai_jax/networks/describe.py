"""A network's listing in the format of the paper's appendix D, and its sizes."""

from collections.abc import Sequence
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.domains.product import example_shape
from diffai_jax.networks.as_graph import graph_of
from diffai_jax.networks.graph_network import GraphNetwork
from diffai_jax.networks.plain import PlainNetwork
from diffai_jax.nn import Branch, Join, ReLU
from diffai_jax.types import Mode

_RELUS = ("relu", "leaky_relu")  # Transformers that count as ReLU units.


@dataclasses.dataclass(frozen=True)
class Description:
  """What a network is made of.

  Attributes:
    lines: one a layer, in order.
    relus: number of ReLU units.
    parameters: number of weights and biases.
    depth: number of ReLU layers on the longest path.
  """

  lines: tuple[str, ...]
  relus: int
  parameters: int
  depth: int

  def __str__(self) -> str:
    sizes = (
        f"ReLUs: {self.relus}",
        f"Parameters: {self.parameters}",
        f"Depth: {self.depth}",
    )
    return "\n".join(self.lines + sizes)


def describe(network: nn.Module, input_shape: Sequence[int]) -> Description:
  """Describes a network without running it or drawing its weights.

  The network is traced on shapes alone, and each of its layers gives
  its line as it is called: the listing cannot differ from what runs.

  Args:
    network: a module whose layers have a `describe(input_shape)` method; of other
      networks the lines are the calls of their graph.
    input_shape: of one example, [H, W, C].

  Raises:
    UsageError: if the network does not fit images of this shape.
  """
  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  if isinstance(network, (GraphNetwork, PlainNetwork)):
    return _of_graph(network, images)
  listing = _Listing()
  with nn.intercept_methods(listing.listen):
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
  parameters = sum(
      math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])
  )
  return Description(
      tuple(listing.lines), listing.relus, parameters, listing.depth
  )


def _of_graph(
    network: GraphNetwork | PlainNetwork, images: jax.ShapeDtypeStruct
) -> Description:
  """The description of what is no listing of layers, by its calls."""
  found = []

  def run(key, images):
    variables = network.init(key, images)
    shape, dtype = images.shape[1:], images.dtype
    graph = graph_of(network, variables, shape, Mode.TRAIN, dtype)
    lines = str(graph).splitlines()
    relus = [
        call for call in graph.calls if call.transformer in _RELUS
    ]
    depths = [0]
    for call in graph.calls:
      longest = max(depths[number] for number in call.inputs)
      depths.append(longest + (call.transformer in _RELUS))
    found.append((
        tuple(lines), sum(math.prod(call.shape) for call in relus),
        depths[graph.outputs[0]],
    ))
    return variables["params"]

  params = jax.eval_shape(run, jax.random.key(0), images)
  sizes = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  lines, relus, depth = found[0]
  return Description(lines, relus, sizes, depth)


class _Listing:
  """The listing, which grows as the layers are called.

  A join's line comes after its branches, which are indented.
  """

  def __init__(self):
    self.lines = []
    self.relus = 0
    self.depth = 0
    self._indent = ""
    self._ends = []  # Depths at the ends of the innermost join's branches.

  def listen(self, call, args, kwargs, context):
    layer = context.module
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    if isinstance(layer, Join):
      return self._join(layer, call, args, kwargs)
    if isinstance(layer, Branch):
      return self._branch(layer, call, args, kwargs)
    result = call(*args, **kwargs)
    if hasattr(layer, "describe"):
      shape = example_shape(args[0])
      self.lines.append(self._indent + layer.describe(shape))
      if isinstance(layer, ReLU):
        self.relus += math.prod(shape)
        self.depth += 1
    return result

  def _join(self, layer, call, args, kwargs):
    self._ends = []
    result = call(*args, **kwargs)
    self.depth = max(self._ends)
    self.lines.append(self._indent + layer.describe(example_shape(args[0])))
    return result

  def _branch(self, layer, call, args, kwargs):
    """Depths are from the network's input: branches begin with the join's."""
    start, indent, ends = self.depth, self._indent, self._ends
    self.lines.append(indent + layer.label)
    self._indent = indent + "  "
    result = call(*args, **kwargs)
    ends.append(self.depth)
    self.depth, self._indent, self._ends = start, indent, ends
    return result
