"""Where two paths through a network meet: add, subtract, concatenate.

Generators of the same name speak of the same symbols, so they are summed, and
what two paths have in common cancels or adds up as it really does. Symbols are
told apart by their names alone, never by position, and by names only where JAX
cannot have copied them (`sharing`).
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, merging, rounding
from diffai_jax.domains.generators import scale
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, point, radius
from diffai_jax.domains.product import Product, Value
from diffai_jax.kernels import precision
from diffai_jax.kernels.matrices import concatenate
from diffai_jax.transformers.dispatch import (
    check_axis,
    require_array,
    transformer,
)
from diffai_jax.transformers.sharing import tell_apart


@transformer
def add(x: Value, y: Value) -> Value:
  """x + y, of the same shape.

  Sound: at the same values of the symbols, x = c + r·β + Σ g_j·e_j and
  y = c' + r'·β' + Σ g'_j·e_j sum to c + c' + (r·β + r'·β') + Σ (g_j + g'_j)·e_j, and
  |r·β + r'·β'| ≤ r + r'. Symbols of one operand alone stay as they are. Each
  sum rounds once, in the bounds and in a concrete run: both are added, and a
  smallest normal number for each sum that may underflow. What may overflow is
  NaN, as in `affine_rule`.

  Args:
    x, y: arrays [B, ...] and HybridZonotopes, in any mixture; or two Products
      of as many parts, which are added part by part.

  Raises:
    ValueError: if the shapes differ, or the elements' rules, or blocks of one
      name have different numbers of symbols.
    TypeError: for any other kind.
  """
  if isinstance(x, Product) or isinstance(y, Product):
    return Product(tuple(add(*pair) for pair in part_by_part((x, y))))
  if not any(isinstance(value, HybridZonotope) for value in (x, y)):
    require_array(x, "add")
    require_array(y, "add")
    check_shapes("add", x.shape, y.shape)
    return x + y
  types = jax.tree.leaves((x, y))
  x, y = to_elements((x, y), "add")
  check_shapes("add", x.center.shape, y.center.shape)
  correlated = dict(x.correlated)
  for name, block in y.correlated.items():
    known = correlated.get(name)
    correlated[name] = block if known is None else merging.add(known, block)
  magnitude = jnp.abs(x.center) + jnp.abs(y.center) + radius(x) + radius(y)
  dtype = precision.narrowest(*types)
  slack = 2 * rounding.elementary(dtype) * magnitude
  # Sums of centers, radii and each symbol may underflow; those of zeros do not.
  symbols = sum(map(generators.terms_summed, correlated.values()))
  tiny = rounding.absolute(dtype, 1 + symbols)
  slack = slack + jnp.where(magnitude > 0, tiny, 0)
  if not precision.for_losses.value:
    # In a concrete run this may be ∞ - ∞.
    slack = jnp.where(magnitude < rounding.largest(dtype), slack, jnp.nan)
  uncorrelated = lax.stop_gradient(slack)
  for own in (x.uncorrelated, y.uncorrelated):
    if own is not None:
      uncorrelated = uncorrelated + own
  return dataclasses.replace(
      x,
      center=x.center + y.center,
      uncorrelated=uncorrelated,
      correlated=correlated,
  )


@transformer
def subtract(x: Value, y: Value) -> Value:
  """x - y, of the same shape: `add` of -y, whose negation is exact.

  So rounding, underflow and overflow are allowed for there.
  """
  return add(x, negate(y))


def negate(x: Value) -> Value:
  """-x: centers and generators change their sign, radii stay."""
  if isinstance(x, Product):
    return Product(tuple(negate(part) for part in x.parts))
  if not isinstance(x, HybridZonotope):
    require_array(x, "subtract")
    return -x
  minus = jnp.asarray(-1, x.center.dtype)
  return dataclasses.replace(
      x,
      center=-x.center,
      correlated={
          name: scale(block, minus) for name, block in x.correlated.items()
      },
  )


@transformer
def concat(values: Sequence[Value], axis: int = -1) -> Value:
  """Concatenates along an axis of one example; exact.

  Variables keep their center, their uncorrelated error and their symbols; a
  part without symbols of some name is not moved by them.

  Args:
    values: as of `add`, one or more; shapes agree but for `axis`.
    axis: of one example, 0 is the first after the batch; or negative.

  Raises:
    ValueError: if there is nothing to concatenate, shapes do not agree,
      elements' rules differ, or blocks of one name have different numbers of
      symbols.
    TypeError: for any other kind.
  """
  if not values:
    raise ValueError("concat wants at least one value")
  if any(isinstance(value, Product) for value in values):
    return Product(
        tuple(concat(group, axis) for group in part_by_part(values))
    )
  if not any(isinstance(value, HybridZonotope) for value in values):
    for value in values:
      require_array(value, "concat")
    axis = _from_end(axis, values[0].ndim)
    _check_concatenable([value.shape for value in values], axis)
    return concatenate(values, axis=axis)
  elements = to_elements(values, "concat")
  shapes = [element.center.shape for element in elements]
  axis = _from_end(axis, len(shapes[0]))
  _check_concatenable(shapes, axis)
  uncorrelated = None
  if any(element.uncorrelated is not None for element in elements):
    uncorrelated = concatenate([
        jnp.zeros_like(element.center) if element.uncorrelated is None
        else element.uncorrelated
        for element in elements
    ], axis=axis)
  names = sorted(set().union(*(element.correlated for element in elements)))
  correlated = {
      name: merging.concatenate(
          [element.correlated.get(name) for element in elements], shapes, axis
      )
      for name in names
  }
  return dataclasses.replace(
      elements[0],
      center=concatenate([e.center for e in elements], axis=axis),
      uncorrelated=uncorrelated,
      correlated=correlated,
  )


def _check_concatenable(shapes: list[tuple], axis: int) -> None:
  """Raises ValueError unless all shapes agree but for `axis` (negative)."""
  rest = {
      tuple(n for i, n in enumerate(shape) if i != len(shape) + axis)
      for shape in shapes
  }
  if len(rest) > 1 or len({len(shape) for shape in shapes}) > 1:
    raise ValueError(f"concat met the shapes {shapes}")


def _from_end(axis: int, rank: int) -> int:
  """An axis of one example, of an array of that rank, as a negative number."""
  return check_axis(axis, rank - 1) - (rank - 1)


def part_by_part(values: Sequence[Value]) -> list[tuple]:
  """The values' first parts, their second parts, and so on."""
  counts = {
      len(value.parts) if isinstance(value, Product) else 0 for value in values
  }
  if len(counts) > 1:
    raise ValueError(
        f"values that meet must be Products of as many parts; here they have"
        f" {sorted(counts)} (0 is no Product)"
    )
  return list(zip(*(value.parts for value in values)))


def to_elements(values: Sequence[Value], name: str) -> list[HybridZonotope]:
  """All values as elements with the same rules, of one type; arrays are points.

  What they share is known: see `tell_apart`.
  """
  given = [value for value in values if isinstance(value, HybridZonotope)]
  for value in values:
    if not isinstance(value, HybridZonotope):
      require_array(value, name)
  rules = {(element.relu, element.zonotope) for element in given}
  if len(rules) > 1:
    raise ValueError(
        f"{name} met elements of different rules (relu, zonotope):"
        f" {sorted(rules)}"
    )
  like = functools.partial(
      dataclasses.replace, relu=given[0].relu, zonotope=given[0].zonotope
  )
  return precision.in_one_type(tell_apart([
      value if isinstance(value, HybridZonotope) else like(point(value))
      for value in values
  ]))


def check_shapes(name: str, first: tuple, second: tuple) -> None:
  if first != second:
    raise ValueError(f"{name} met the shapes {first} and {second}")
