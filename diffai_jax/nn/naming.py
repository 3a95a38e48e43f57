"""Names of layers, for messages and for the noise symbols that they make."""

from flax import linen as nn

from diffai_jax.domains import fresh_symbol


def layer_path(layer: nn.Module) -> str:
  """The layer's path in the network, such as "Block_1/ReLU_0".

  Its type's name for the outermost module, and outside of `init` and `apply`.
  """
  return _path(layer) or type(layer).__name__


def place(layer: nn.Module) -> str:
  """The layer's type and path for a message: "Linear layers_3/layers_0"."""
  return f"{type(layer).__name__} {_path(layer)}".strip()


def _path(layer: nn.Module) -> str:
  return "" if layer.scope is None else "/".join(layer.path)


def layer_symbol(layer: nn.Module) -> str:
  """A name for the noise symbols of this call of a layer, and of no other.

  The path, and a number that no other call has: not in the same run, where one
  ReLU may act on two branches, and not in another (`domains.identity`).
  """
  return fresh_symbol(layer_path(layer))
