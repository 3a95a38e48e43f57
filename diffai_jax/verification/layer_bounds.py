"""Bounds of what each layer of a network gives, over a region."""

from collections.abc import Iterable
import dataclasses

from flax import linen as nn
import jax
import numpy as np

from diffai_jax.data import to_floats
from diffai_jax.domains import HybridZonotope, lower, upper
from diffai_jax.domains.product import example_shape, value_dtype
from diffai_jax.graph import Graph, Recording, record
from diffai_jax.networks import GraphNetwork, PlainNetwork, graph_of
from diffai_jax.text.suggest import nearest
from diffai_jax.types import Array, Mode, UsageError, shown
from diffai_jax.verification.blocks import run_in_batches
from diffai_jax.verification.inputs import Inputs
from diffai_jax.verification.linear_methods import Linear
from diffai_jax.verification.methods import Domain
from diffai_jax.verification.programs import compile_measure

_LISTED = 8  # Names of layers in a message.
Bounds = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MeasureLayers:
  """Lower and upper bounds of layers' outputs.

  Their names are "NUMBER lower PATH" and "NUMBER upper PATH": sorted, they are in
  the order of the run, and compiled programs sort names.

  Attributes:
    network: called as network(value, mode).
    method: a domain, or linear bounds.
    at: the layer's path; None is every layer.
  """

  network: nn.Module
  method: Domain | Linear
  at: str | None

  def __call__(self, variables: dict, inputs: Inputs) -> dict[str, Array]:
    images = to_floats(inputs.images)
    if isinstance(self.method, Linear):
      found = self._walked(variables, images, inputs.region)
    else:
      element = self.method.element(images, inputs.region)
      found = {
          path: (lower(output), upper(output))
          if isinstance(output, HybridZonotope) else (output, output)
          for path, output in _outputs(self.network, variables, element).items()
          if isinstance(output, (HybridZonotope, jax.Array))
      }
    if self.at is not None:
      if self.at not in found:
        raise _unknown_layer(self.at, found)
      found = {self.at: found[self.at]}
    return {
        f"{number:06} {end} {path}": bound
        for number, (path, bounds) in enumerate(found.items())
        for end, bound in zip(("lower", "upper"), bounds)
    }

  def _walked(self, variables: dict, images: Array, region) -> dict[str, tuple]:
    """Bounds by path, of a method that walks the network's graph backwards."""
    shape, dtype = images.shape[1:], images.dtype
    if isinstance(self.network, (GraphNetwork, PlainNetwork)):
      graph = graph_of(self.network, variables, shape, Mode.CERTIFY, dtype)
      numbers = graph.layers()
    else:
      graph, numbers = _recorded(self.network, variables, shape, dtype)
    bounds = self.method.results(graph, images, region)
    return {path: bounds[number] for path, number in numbers.items()}


def layer_bounds(
    network: nn.Module,
    variables: dict,
    inputs: Inputs,
    method: Domain | Linear,
    at: str | None = None,
    memory_mb: float | None = None,
) -> dict[str, Bounds]:
  """Lower and upper bounds, [N, ...] each, by the layer's path.

  Args:
    network: called as network(value, mode).
    variables: its collections, normalisation's among them.
    inputs: whose labels do not count.
    method: a domain, or linear bounds.
    at: a path; None is every layer.
    memory_mb: as `certification.certify` takes it.

  Raises:
    UsageError: if there is no such layer, or one example needs more memory.
  """
  if getattr(network, "remat", False):
    # What is traced inside of a rematerialised layer must not leave it.
    network = network.clone(remat=False)
  size, program = compile_measure(
      f"bounds with {method}", MeasureLayers(network, method, at), variables,
      inputs, memory_mb,
  )
  found = run_in_batches(program, size, variables, inputs)
  bounds = {}
  for name in sorted(found):  # A layer's lower bounds first.
    path = name.split(" ", 2)[2]
    bounds[path] = *bounds.get(path, ()), found[name]
  return bounds


def _outputs(network: nn.Module, variables: dict, value) -> dict:
  """What each module gives, by its path, in the order of their ends.

  The network itself is "", and left out if it has modules inside. The second
  call of a module has the path "PATH#2".
  """
  if isinstance(network, (GraphNetwork, PlainNetwork)):
    shape, dtype = example_shape(value), value_dtype(value)
    graph = graph_of(network, variables, shape, Mode.CERTIFY, dtype)
    results = graph.results(value)
    return {name: results[n] for name, n in graph.layers().items()}
  found, calls = {}, {}

  def intercept(call, args, kwargs, context):
    result = call(*args, **kwargs)
    if context.method_name == "__call__":
      path = "/".join(context.module.path)
      calls[path] = calls.get(path, 0) + 1
      if calls[path] > 1:
        path = f"{path}#{calls[path]}"
      found[path] = result
    return result

  with nn.intercept_methods(intercept):
    network.apply(variables, value, Mode.CERTIFY)
  if len(found) > 1:
    found.pop("", None)
  return found


def _recorded(
    network: nn.Module, variables: dict, shape: tuple[int, ...], dtype
) -> tuple[Graph | None, dict[str, int]]:
  """The graph of a network of our layers, and each path's result in it.

  None, which is no graph, where JAX or Flax transforms a layer.
  """
  paths = []

  def run(value):
    found = _outputs(network, variables, value)
    found = {k: v for k, v in found.items() if isinstance(v, Recording)}
    paths.extend(found)
    return tuple(found.values())

  try:
    graph = record(run, shape, dtype)
  except TypeError:  # Of a Recording under `nn.jit`, `nn.scan` or the like.
    return None, {}
  return graph, dict(zip(paths, graph.outputs))


def _unknown_layer(at: str, known: Iterable[str]) -> UsageError:
  known = list(known)
  guess = nearest(at, known) if isinstance(at, str) else None
  hint = f"did you mean {guess!r}? " if guess else ""
  listed = ", ".join(known[:_LISTED])
  more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
  return UsageError(
      f"the network has no layer {shown(at)}; {hint}known: {listed}{more}"
  )
