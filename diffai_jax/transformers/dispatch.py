"""What every transformer does with what it is given: guard, and map over parts."""

import functools
from typing import Callable

import jax
import numpy as np

from diffai_jax.domains.identity import renewed_symbol
from diffai_jax.domains.product import Product


def require_array(x, name: str) -> None:
  """Raises TypeError unless x is an array, traced or not.

  `functools.singledispatch` sends everything it does not know to the default,
  so a forgotten registration must not pass for a concrete run.
  """
  if not isinstance(x, (jax.Array, np.ndarray)):
    raise TypeError(
        f"{name} has no rule for {type(x).__name__}; it takes an array, a"
        f" HybridZonotope or a Product"
    )


def check_axis(axis: int, rank: int) -> int:
  """An axis of one example as a number from 0 to rank - 1.

  Raises:
    ValueError: if an example has no such axis.
  """
  if not -rank <= axis < rank:
    raise ValueError(f"axis {axis} is none of the {rank} axes of an example")
  return axis % rank


def register_parts(transformer: Callable) -> None:
  """Makes a singledispatch transformer act on each part of a Product.

  Noise symbols that it makes are another family in each part.
  """

  @transformer.register(Product)
  @functools.wraps(transformer)
  def on_product(x: Product, *args, **kwargs) -> Product:
    results = []
    for number, part in enumerate(x.parts):
      own = dict(kwargs)
      if "symbol" in own:
        own["symbol"] = part_symbol(own["symbol"], number)
      results.append(transformer(part, *args, **own))
    return Product(tuple(results))


def part_symbol(symbol: str | None, number: int) -> str | None:
  """The name of new symbols in that part of a Product: each has its own."""
  if symbol is None or number == 0:
    return symbol
  return renewed_symbol(symbol)
