"""Elements that layers record for a run that asks, such as inputs of ReLUs."""

from collections.abc import Mapping

from flax import linen as nn

from diffai_jax.domains import HybridZonotope, parts
from diffai_jax.domains.product import Value
from diffai_jax.graph import plain

# Recorded with `apply(..., mutable=[COLLECTION])`; else nothing is.
COLLECTION = "bounds"


def observe(layer: nn.Module, name: str, x: Value) -> None:
  """Records the elements in x under a name, if the run asks for them."""
  if layer.scope is None or layer.is_initializing():
    return
  if layer.is_mutable_collection(COLLECTION):
    elements = tuple(
        part for part in parts(plain(x)) if isinstance(part, HybridZonotope)
    )
    layer.sow(COLLECTION, name, elements)


def observed(collections: Mapping, name: str) -> list[tuple]:
  """The elements recorded under a name, of each call, in their order."""
  found = []

  def visit(tree: Mapping) -> None:
    for key, value in tree.items():
      if isinstance(value, Mapping):
        visit(value)
      elif key == name:
        found.extend(value)

  visit(collections.get(COLLECTION, {}))
  return found
