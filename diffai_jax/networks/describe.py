"""A network's listing in the format of the paper's appendix D, and its sizes."""

from collections.abc import Sequence
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.domains.product import example_shape
from diffai_jax.nn import ReLU


@dataclasses.dataclass(frozen=True)
class Description:
  """What a network is made of.

  Attributes:
    lines: one a layer, in order.
    relus: number of ReLU units.
    parameters: number of weights and biases.
    depth: number of ReLU layers.
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

  The network is traced on shapes alone, and each of its layers is asked for
  its line as it is called: the listing cannot differ from what runs.

  Args:
    network: a module whose layers have a `describe(input_shape)` method.
    input_shape: of one example, [H, W, C].

  Raises:
    UsageError: if the network does not fit images of this shape.
  """
  lines = []
  relu_sizes = []

  def listen(call, args, kwargs, context):
    layer = context.module
    if context.method_name == "__call__" and hasattr(layer, "describe"):
      shape = example_shape(args[0])
      lines.append(layer.describe(shape))
      if isinstance(layer, ReLU):
        relu_sizes.append(math.prod(shape))
    return call(*args, **kwargs)

  images = jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
  with nn.intercept_methods(listen):
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
  parameters = sum(
      math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])
  )
  return Description(tuple(lines), sum(relu_sizes), parameters, len(relu_sizes))
