"""The product d1 × d2 of the paper's Mix (Table 1), and what all values share."""

import dataclasses

import jax

from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Product:
  """Arrays and elements that travel through a network together, in one run.

  Attributes:
    parts: tuple of arrays [B, ...], elements over the same variables, and
      products of them.
  """

  parts: tuple

  def __getitem__(self, index: int):
    return self.parts[index]


Value = Array | HybridZonotope | Product


def parts(x: Value) -> list[Array | HybridZonotope]:
  """The arrays and elements that x consists of, from left to right."""
  if isinstance(x, Product):
    return [leaf for part in x.parts for leaf in parts(part)]
  return [x]


def rebuild(x: Value, leaves: list[Array | HybridZonotope]) -> Value:
  """x with its parts replaced, in the order of `parts`."""
  remaining = iter(leaves)

  def build(value: Value) -> Value:
    if isinstance(value, Product):
      return Product(tuple(build(part) for part in value.parts))
    return next(remaining)

  return build(x)


def center(x: Array | HybridZonotope) -> Array:
  """An array itself, an element's center."""
  return x.center if isinstance(x, HybridZonotope) else x


def value_dtype(x: Value):
  """The floating-point type that JAX computes x in."""
  return jax.dtypes.canonicalize_dtype(center(parts(x)[0]).dtype)


def example_shape(x: Value) -> tuple[int, ...]:
  """Shape of one example: that of x without the batch axis."""
  return tuple(center(parts(x)[0]).shape[1:])
