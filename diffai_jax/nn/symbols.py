"""Names for the noise symbols that a layer creates."""

import itertools
import weakref

from flax import linen as nn

_numbers = itertools.count()
# A number for each run of a lifted block, by the block's own root scope.
_lifted = weakref.WeakKeyDictionary()


def enter_lifted(module: nn.Module) -> None:
  """Says that the module's root scope is that of a lifted transformation.

  Flax tells this of a lifted block by its path, but not of a function that is
  lifted over the outermost module.
  """
  _lifted[module.scope.root] = next(_numbers)


def fresh_symbol(layer: nn.Module) -> str:
  """The layer's path in the network, and which of its calls this is.

  A layer that is called twice in one run (one ReLU on two branches, or one
  block) creates different symbols each time; under one name, elements that meet
  later would take them for the same. Calls are counted among the names that the
  run's outermost scope has reserved, which live as long as the run.

  A lifted transformation (`nn.remat`, `nn.jit`) hides the outermost scope, and a
  layer outside of `init` and `apply` has none: their symbols get a number that
  no other call in this process has.

  Elements of several runs (`network.apply` twice) must not meet under the same
  names either. Give the networks names, `Network(..., name="first")`: they then
  stand before the path.

  Args:
    layer: a module.

  Returns:
    Such as "Block_1/ReLU_0", "Block_1/ReLU_0#1" in its second call,
    "Block_1/ReLU_0@7" in a lifted block, "first:ReLU_0" in a network of that
    name.
  """
  if layer.scope is None:
    return f"{type(layer).__name__}@{next(_numbers)}"
  name = "/".join(layer.path) or type(layer).__name__
  root = layer.scope.root
  if root.path or root in _lifted:
    if root not in _lifted:
      enter_lifted(layer)
    name = f"{name}@{_lifted[root]}"
  else:
    outermost = layer
    while isinstance(outermost.parent, nn.Module):
      outermost = outermost.parent
    if outermost.name is not None and not outermost.path:
      name = f"{outermost.name}:{name}"
  if name == "input":  # The symbols of the input box.
    name = "input#layer"
  # `default_name` appends the first number that is still free.
  reserved = root.default_name(f"symbols of {name}#")
  root.reserve(reserved)
  call = reserved.rpartition("#")[2]
  return name if call == "0" else f"{name}#{call}"
