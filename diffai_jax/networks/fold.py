"""Batch normalisation made part of the layers before it."""

import collections
from collections.abc import Iterator, Mapping

from flax import linen as nn

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
    UsageError: if a BatchNorm does not follow a convolution or dense layer of
      its own chain, if it or that layer is used in another place too, or if a
      module of another kind normalises inside.
  """
  params, statistics = variables["params"], variables.get(POPULATION, {})
  if not statistics:
    return network, params
  uses = collections.Counter(map(id, modules(network)))
  return _fold(network, params, statistics, uses, "")


def normalises(network: nn.Module) -> bool:
  """Whether a chain of layers, joins and chains has a BatchNorm."""
  return any(isinstance(module, BatchNorm) for module in modules(network))


def modules(module: nn.Module) -> Iterator[nn.Module]:
  """A module and those in it, each as often as it is used."""
  yield module
  for inner in _inner(module):
    yield from modules(inner)


def _inner(module: nn.Module) -> tuple[nn.Module, ...]:
  if _runs_as(module, Sequential):
    return tuple(module.layers)
  return (module.first, module.second) if _runs_as(module, Join) else ()


def _runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
  """Whether it is of that kind, and no subclass with a call of its own."""
  return isinstance(module, kind) and type(module).__call__ is kind.__call__


def _fold(
    chain: nn.Module,
    params: Mapping,
    statistics: Mapping,
    uses: Mapping[int, int],
    path: str,
) -> tuple[nn.Module, dict]:
  """A chain and its weights, folded; `path` says where it is."""
  if not _runs_as(chain, Sequential):
    raise UsageError(
        f"{type(chain).__name__} {path}".rstrip() + " normalises inside; only"
        " chains (Sequential) and joins of them can be folded"
    )
  layers, folded = list(chain.layers), dict(params)
  for number, layer in enumerate(layers):
    name = f"layers_{number}"
    place = f"{path}/{name}".lstrip("/")
    if _runs_as(layer, BatchNorm):
      before = layers[number - 1] if number else None
      _check(before, layer, uses, place)
      earlier = f"layers_{number - 1}"
      folded[earlier] = _scaled(folded[earlier], params[name], statistics[name])
      del folded[name]
      layers[number] = Sequential(())  # Keeps the numbers of the others.
    elif name not in statistics:
      continue
    elif _runs_as(layer, Join):
      folded[name], branches = dict(folded[name]), {}
      for side in ("first", "second"):
        branches[side] = branch = getattr(layer, side)
        if side in statistics[name]:
          branches[side], folded[name][side] = _fold(
              branch, params[name].get(side, {}), statistics[name][side], uses,
              f"{place}/{side}",
          )
      layers[number] = layer.clone(**branches)
    else:
      layers[number], folded[name] = _fold(
          layer, params[name], statistics[name], uses, place
      )
  return chain.clone(layers=tuple(layers)), folded


def _check(
    before: nn.Module | None, norm: BatchNorm, uses: Mapping[int, int],
    place: str,
) -> None:
  """Checks that a BatchNorm can become part of the layer before it."""
  if not (_runs_as(before, Conv2D) or _runs_as(before, Linear)):
    follows = "comes first" if before is None else (
        f"follows {type(before).__name__}"
    )
    raise UsageError(
        f"BatchNorm {place} {follows}; only one that follows a convolution or"
        f" dense layer can be folded into it"
    )
  for layer in (norm, before):
    if uses[id(layer)] > 1:
      raise UsageError(
          f"{type(layer).__name__} at {place} is used {uses[id(layer)]} times"
          f" in the network; it cannot be folded, since one set of weights"
          f" would stand for several: use a layer of its own in each place"
      )


def _scaled(layer: dict, norm: dict, statistics: dict) -> dict:
  """Weights of the layer and its normalisation in one."""
  by = factor(norm["scale"], statistics["variance"])
  return {
      "kernel": layer["kernel"] * by,
      "bias": (layer["bias"] - statistics["mean"]) * by + norm["bias"],
  }
