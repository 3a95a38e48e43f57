"""What layers show of the elements that pass, for those who ask."""

from collections.abc import Mapping

from flax import linen as nn

from diffai_jax.domains import HybridZonotope, parts
from diffai_jax.domains.product import Value

# Asked for with `apply(..., mutable=[COLLECTION])`; else nothing is kept.
COLLECTION = "bounds"


def observe(layer: nn.Module, name: str, x: Value) -> None:
  """Keeps the elements in x under a name, if the run asks for them."""
  if layer.scope is None or layer.is_initializing():
    return
  if layer.is_mutable_collection(COLLECTION):
    elements = tuple(p for p in parts(x) if isinstance(p, HybridZonotope))
    layer.sow(COLLECTION, name, elements)


def observed(collections: Mapping, name: str) -> list[tuple]:
  """What was kept under a name: the elements of each call, in their order."""
  found = []

  def visit(tree: Mapping) -> None:
    for key, value in tree.items():
      if isinstance(value, Mapping):
        visit(value)
      elif key == name:
        found.extend(value)

  visit(collections.get(COLLECTION, {}))
  return found
