"""Which noise symbols elements share when they meet (see `domains.identity`)."""

from collections.abc import Sequence
import dataclasses

from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.domains.identity import is_shared, renewed_symbol
from diffai_jax.domains.product import Value, parts, rebuild
from diffai_jax.transformers.dispatch import Deferred


def adopt_symbols(x: Value) -> Value:
  """What one call of a traced function returned, with names that last.

  Symbols that were made inside of `jax.jit`, `jax.checkpoint`, a lifted module or
  any other traced function have names that its cache gives to every call, so
  outside they are shared with nothing. To be called right where the function
  returns: what is computed from the result then shares its symbols.

    h = adopt_symbols(jitted(x))
    difference = subtract(first(h), second(h))

  Sound: one call made them, and no other call has the new names.

  Args:
    x: array (returned as it is), HybridZonotope or Product, whose parts go on
      sharing what they share.
  """
  elements = [part for part in parts(x) if isinstance(part, HybridZonotope)]
  names = sorted(set().union(*(element.correlated for element in elements)))
  new = {name: renewed_symbol(name) for name in names if not is_shared(name)}

  def adopted(part):
    if isinstance(part, Deferred):
      return part.adopted()
    return _renamed(part, new) if isinstance(part, HybridZonotope) else part

  return rebuild(x, [adopted(part) for part in parts(x)])


def tell_apart(elements: Sequence[HybridZonotope]) -> list[HybridZonotope]:
  """Elements that are about to meet, sharing only what is known to be shared.

  Blocks of a name whose trace has ended stay under it in the first element that
  has them, and get fresh names in the others. Sound: symbols of different names
  are independent, which only adds points.
  """
  known, apart = set(), []
  for element in elements:
    unknown = sorted(
        name for name in element.correlated
        if name in known and not is_shared(name)
    )
    known |= set(element.correlated)
    apart.append(
        _renamed(element, {name: renewed_symbol(name) for name in unknown})
    )
  return apart


def _renamed(element: HybridZonotope, new: dict[str, str]) -> HybridZonotope:
  if not new:
    return element
  return dataclasses.replace(element, correlated={
      new.get(name, name): block for name, block in element.correlated.items()
  })
