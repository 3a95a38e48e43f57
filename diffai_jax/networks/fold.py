"""Batch normalisation made part of the layers before it."""

import jax
import jax.numpy as jnp

from diffai_jax.nn import BatchNorm, Conv2D, Join, Linear, Sequential
from diffai_jax.nn.batch_norm import POPULATION, factor
from diffai_jax.types import UsageError


def fold(network: Sequential, variables: dict) -> tuple[Sequential, dict]:
  """The same function without BatchNorm layers, and its weights.

  With the population's statistics each is an affine map of channels, which the
  convolution or dense layer before it can do as well: kernel·f and
  (bias - mean)·f + shift, with f = scale/√(variance + 1e-5).

  Args:
    network: as `create` makes it.
    variables: with "params" and, if it normalises, `batch_norm.POPULATION`.

  Returns:
    (network, params); the given ones if nothing normalises.

  Raises:
    UsageError: if a BatchNorm does not follow a convolution or dense layer.
  """
  params, statistics = variables["params"], variables.get(POPULATION, {})
  if not statistics:
    return network, params
  layers, folded = list(network.layers), dict(params)

  def inside(chain: Sequential, path: tuple[str, ...]) -> Sequential:
    """A chain among the layers, folded; its weights change in `folded`."""
    known, population = params, statistics
    for name in path:
      known, population = known.get(name, {}), population.get(name, {})
    chain, weights = fold(chain, {"params": known, POPULATION: population})
    if weights:
      _put(folded, path, weights)
    return chain

  for number, layer in enumerate(layers):
    name = f"layers_{number}"
    if isinstance(layer, Sequential):
      layers[number] = inside(layer, (name,))
    elif isinstance(layer, Join):
      layers[number] = layer.clone(
          first=inside(layer.first, (name, "first")),
          second=inside(layer.second, (name, "second")),
      )
    elif isinstance(layer, BatchNorm):
      before = layers[number - 1] if number else None
      if not isinstance(before, (Conv2D, Linear)):
        place = f"follows {type(before).__name__}" if number else "comes first"
        raise UsageError(
            f"BatchNorm {place}; only one that follows a convolution or dense"
            f" layer can be folded into it"
        )
      earlier = f"layers_{number - 1}"
      folded[earlier] = _scaled(folded[earlier], params[name], statistics[name])
      del folded[name]
      layers[number] = Sequential(())  # Keeps the numbers of the others.
  return network.clone(layers=tuple(layers)), folded


def folded(network: Sequential, image_shape: tuple[int, ...]) -> Sequential:
  """The network that `fold` gives, whatever the weights.

  Weights that were folded and saved are this network's.

  Args:
    network: as `create` makes it.
    image_shape: of one example.

  Raises:
    UsageError: as `fold` does.
  """
  found = []

  def run():
    image = jnp.zeros((1, *image_shape))
    found.append(fold(network, network.init(jax.random.key(0), image))[0])

  jax.eval_shape(run)
  return found[0]


def _put(tree: dict, path: tuple[str, ...], value: dict) -> None:
  """tree[path[0]][path[1]]… = value, without changing what is inside."""
  first, *rest = path
  if rest:
    tree[first] = dict(tree[first])
    _put(tree[first], tuple(rest), value)
  else:
    tree[first] = value


def _scaled(layer: dict, norm: dict, statistics: dict) -> dict:
  """Weights of the layer and its normalisation in one."""
  by = factor(norm["scale"], statistics["variance"])
  return {
      "kernel": layer["kernel"] * by,
      "bias": (layer["bias"] - statistics["mean"]) * by + norm["bias"],
  }
