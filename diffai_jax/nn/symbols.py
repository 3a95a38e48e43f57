"""Names for the noise symbols that a layer creates."""

from flax import linen as nn


def fresh_symbol(layer: nn.Module) -> str:
  """The layer's path in the network, and which of its calls this is.

  A layer that is called twice in one run (one ReLU on two branches, or one
  block) creates different symbols each time; under one name, elements that meet
  later would take them for the same. Calls are counted among the names that the
  run's outermost scope has reserved, which live as long as the run.

  A lifted transformation (`nn.remat`, `nn.jit`) hides the outer scope: give each
  call of a lifted block an instance of its own, as the networks here do.

  Args:
    layer: a bound module (within `init` or `apply`); else its class names it.

  Returns:
    Such as "Block_1/ReLU_0", and "Block_1/ReLU_0#1" in its second call.
  """
  if layer.scope is None:
    return type(layer).__name__
  name = "/".join(layer.path) or type(layer).__name__
  root = layer.scope.root
  # `default_name` appends the first number that is still free.
  reserved = root.default_name(f"symbols of {name}#")
  root.reserve(reserved)
  call = reserved.rpartition("#")[2]
  return name if call == "0" else f"{name}#{call}"
