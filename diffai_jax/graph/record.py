"""Reading networks of our own layers, in any Mode, into a graph."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from flax import linen as nn
import numpy as np

from diffai_jax.graph.building import Builder
from diffai_jax.graph.graph import Graph


def record(
    function: Callable, input_shape: Sequence[int], dtype=np.float32
) -> Graph:
  """The graph of a function of one value that is made of transformers.

  It is run once, on a value that notes the transformers that it meets. Calls bear
  the path of the Flax module that makes them; those of a module's second call
  "PATH#2". A mode decides which abstract layers are calls, too:

    record(lambda x: network.apply(variables, x, Mode.CERTIFY), (28, 28, 1))

  Args:
    function: value -> value, or a tuple of values.
    input_shape: of one example.
    dtype: what the network computes in.

  Raises:
    TypeError: if something but transformers is called on the value, or a JAX
      transformation such as `jax.jit` or `jax.checkpoint` surrounds them.
  """
  builder = Builder(input_shape, dtype)
  with layer_names(builder.named):
    output = function(builder.input)
  return builder.graph(*(output if isinstance(output, tuple) else (output,)))


def layer_names(
    named: Callable[[str], AbstractContextManager]
) -> AbstractContextManager:
  """A context in which Flax modules are called within `named(path)`.

  Of a module's second call the path is "PATH#2".
  """
  calls = {}

  def intercept(call, args, kwargs, context):
    if context.method_name != "__call__":
      return call(*args, **kwargs)
    path = "/".join(context.module.path)
    calls[path] = calls.get(path, 0) + 1
    if calls[path] > 1:
      path = f"{path}#{calls[path]}"
    with named(path):
      return call(*args, **kwargs)

  return nn.intercept_methods(intercept)
