"""The user's own networks: Flax modules of plain layers, called as network(x)."""

from collections.abc import Callable, Sequence
import inspect

from flax import linen as nn
from flax import traverse_util
import jax

from diffai_jax.domains.product import Value, example_shape, value_dtype
from diffai_jax.graph import Graph, from_jax
from diffai_jax.nn.batch_norm import BATCH, POPULATION, axes_of, moments
from diffai_jax.types import Array, Mode

# What tells a module to be as it is after training, by the argument's name.
_EVALUATION = {
    "train": False, "training": False, "is_training": False,
    "deterministic": True, "use_running_average": True, "inference": True,
}

# Modules that were found not to compute with the size of their batch, with the
# shape and type of their input: a training step reads them again with traced
# weights, and need not look again.
_CHECKED = set()


class PlainNetwork(nn.Module):
  """A module that knows no elements: they run through the graph that it is.

  The graph is read whenever elements come, inside of a training step as well:
  weights may be traced. Images alone run through the module itself. It is always
  as after training: without dropout, and normalised with statistics that the
  variables have, those of a batch where a step gives them
  (`nn.batch_norm.batch_statistics`). Weights have the names that the module gives
  them.

  Attributes:
    module: called as module(x), and with train=False, deterministic=True or the
      like if it takes them.
    layers: abstract layers by the name of the result that they follow, as
      `graph.Graph.names` has it: ((name, (layer, ...)), ...).

  Raises:
    UsageError: when called on elements, if the module does what has no
      transformer, or has no result of such a name.
  """

  module: nn.Module
  layers: Sequence[tuple[str, Sequence[nn.Module]]] = ()

  def setup(self):
    nn.share_scope(self, self.module)

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    if self.is_initializing():
      return self.module(x, **evaluation(self.module))
    if self.is_mutable_collection(BATCH):
      output, statistics = self._of_batch(x)
      for name, own in statistics.items():
        self.put_variable(BATCH, name, own)
      return output
    if isinstance(x, jax.Array):
      return self._forward()(x)
    graph = self.graph(example_shape(x), value_dtype(x))
    after = {
        graph.number(name): _chain(layers, mode) for name, layers in self.layers
    }
    return graph.results(x, after)[graph.outputs[0]]

  def graph(self, input_shape: Sequence[int], dtype) -> Graph:
    """The graph of the bound module, without abstract layers."""
    key = self.module.clone(parent=None), tuple(input_shape), str(dtype)
    try:
      checked = key in _CHECKED
    except TypeError:  # A module with an attribute that has no hash.
      return from_jax(self._forward(), input_shape, dtype)
    graph = from_jax(self._forward(), input_shape, dtype, checked=checked)
    _CHECKED.add(key)
    return graph

  def _forward(self) -> Callable[[Array], Array]:
    """The module with its variables; of batch statistics, if there are any."""
    module, variables = self.module.clone(parent=None), dict(self.variables)
    if BATCH in variables:
      variables[POPULATION] = variables[BATCH]
    return lambda x: module.apply(variables, x, **evaluation(module))

  def _of_batch(self, x: Array) -> tuple[Array, dict]:
    """The output, normalised with the batch's statistics; and these."""
    found, over = {}, axes_of(self)

    def intercept(call, args, kwargs, context):
      norm = context.module
      if not isinstance(norm, nn.BatchNorm) or context.method_name != "__call__":
        return call(*args, **kwargs)
      mean, variance = moments(norm, args[0], over, norm.axis)
      found[tuple(norm.path)] = {"mean": mean, "var": variance}
      return _normalised(norm, args[0], mean, variance)

    with nn.intercept_methods(intercept):
      output = self._forward()(x)
    return output, traverse_util.unflatten_dict(found)


def _normalised(
    norm: nn.BatchNorm, x: Array, mean: Array, variance: Array
) -> Array:
  """What Flax's BatchNorm gives with these statistics."""
  axis = norm.axis % x.ndim
  shape = [1] * x.ndim
  shape[axis] = -1
  own = norm.variables.get("params", {})
  factor = jax.lax.rsqrt(variance + norm.epsilon)
  if norm.use_scale:
    factor = factor * own["scale"]
  y = (x - mean.reshape(shape)) * factor.reshape(shape)
  return y + own["bias"].reshape(shape) if norm.use_bias else y


def _chain(
    layers: Sequence[nn.Module], mode: Mode
) -> Callable[[Value], Value]:
  def run(value: Value) -> Value:
    for layer in layers:
      value = layer(value, mode)
    return value

  return run


def evaluation(module: nn.Module) -> dict[str, bool]:
  """The arguments that make a module what it is after training."""
  parameters = inspect.signature(module.__call__).parameters
  return {name: v for name, v in _EVALUATION.items() if name in parameters}
