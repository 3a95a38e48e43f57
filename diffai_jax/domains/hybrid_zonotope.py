"""The hybrid zonotope (paper, section 2): a pytree, its makers, its bounds."""

import dataclasses
import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.generators import Block, Diagonal
from diffai_jax.domains.identity import fresh_symbol, require_symbol
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HybridZonotope:
  """A batch of hybrid zonotopes h = ⟨h_C, h_B, h_E⟩ over variables [...].

  It stands for the set
  γ(h) = { center + uncorrelated·β + Σ_j g_j·e_j : β ∈ [-1,1]^n, e ∈ [-1,1]^m }.
  A box is an element without generators.

  Attributes:
    center: h_C, [B, ...].
    uncorrelated: h_B, [B, ...], non-negative; None stands for zero.
    correlated: h_E by the name of the noise symbols. Blocks of the same name,
      in whichever elements, share their symbols; different names are
      independent. Who creates symbols gives them a name of their own: see
      `identity`.
    relu: which ReLU rule the element uses, a key of `transformers.relu.RULES`
      (static). With "box", other activations use their interval rule, else the
      linear one.
    zonotope: whether fresh error of nonlinear transformers becomes new noise
      symbols (a pure zonotope) or stays uncorrelated (static).
  """

  center: Array
  uncorrelated: Array | None = None
  correlated: dict[str, Block] = dataclasses.field(default_factory=dict)
  relu: str = dataclasses.field(default="box", metadata={"static": True})
  zonotope: bool = dataclasses.field(default=False, metadata={"static": True})


def point(x: Array) -> HybridZonotope:
  """The element that stands for the points x, [B, ...], alone.

  Numbers of NumPy that JAX's floating-point type cannot hold get the error of
  their conversion as radius; here and in the other makers.
  """
  center, moved = _converted(x)
  return HybridZonotope(center, moved)


def box(center: Array, radius: Array) -> HybridZonotope:
  """The box of radius `radius` ≥ 0 around `center`, both [B, ...].

  It is exactly the set of these two arrays: nothing is widened.
  """
  center, moved = _converted(center)
  return HybridZonotope(center, _widened(radius, moved, center.shape))


def from_bounds(lower: Array, upper: Array) -> HybridZonotope:
  """A box that contains [lower, upper], both [B, ...].

  The midpoint is rounded, so the radius reaches the farther bound from where
  it came to lie, and its own rounding is added: sound to the last bit.
  """
  (lower, below), (upper, above) = _converted(lower), _converted(upper)
  center = lower / 2 + upper / 2  # Their sum could overflow.
  reach = jnp.maximum(upper - center, center - lower)
  slack = reach * rounding.elementary(center.dtype)
  radius = reach + lax.stop_gradient(slack)
  for moved in (below, above):
    radius = radius if moved is None else radius + moved
  return HybridZonotope(center, radius)


def correlated_box(
    center: Array, radius: Array, symbol: str | None = None
) -> HybridZonotope:
  """The box of `box`, with one noise symbol a variable (HBox's input).

  Args:
    center: [B, ...].
    radius: [B, ...], non-negative.
    symbol: name of the new symbols; None makes one that nothing else has.
      Boxes that are given one name are moved by the same symbols, and a jitted
      function compiles anew for an element whose names it has not seen.

  Raises:
    ValueError: if the name ends in # and digits, as names of layers do.
  """
  if symbol is None:
    symbol = fresh_symbol("input")
  require_symbol(symbol)
  center, moved = _converted(center)
  radius = _widened(radius, moved, center.shape)
  return HybridZonotope(center, None, {symbol: Diagonal(radius)})


def _converted(x: Array) -> tuple[Array, Array | None]:
  """x as JAX holds it, and how far that moved its numbers (None: not at all).

  Raises:
    TypeError: if x is not of a floating-point type.
  """
  held = jnp.asarray(x)
  if not jnp.issubdtype(held.dtype, jnp.floating):
    raise TypeError(
        f"elements are of floating-point numbers, not {held.dtype}; convert"
        f" them first"
    )
  if not isinstance(x, np.ndarray) or x.dtype == held.dtype:
    return held, None
  return held, jnp.asarray(_upwards(np.abs(x - np.asarray(held, x.dtype)),
                                    held.dtype))


def _widened(radius: Array, moved: Array | None, shape: tuple) -> Array:
  """A radius as JAX holds it, not smaller, plus what the center has moved."""
  if isinstance(radius, np.ndarray):
    dtype = jax.dtypes.canonicalize_dtype(radius.dtype)
    radius = _upwards(radius, dtype)
  radius = jnp.broadcast_to(radius, shape)
  if moved is None:
    return radius
  return (radius + moved) * (1 + rounding.elementary(moved.dtype))


def _upwards(values: np.ndarray, dtype) -> np.ndarray:
  """The least numbers of that type that are not below the values."""
  nearest = values.astype(dtype)
  above = np.nextafter(nearest, np.asarray(np.inf, dtype))
  return np.where(nearest < values, above, nearest).astype(dtype)


def radius(element: HybridZonotope) -> Array:
  """The total error ε_H = h_B + Σ|h_E| of the interval concretization.

  Shape [B, ...]. Long sums round, so it is widened by as much as the sum can
  be off; without generators it is `uncorrelated` itself.
  """
  total, terms = _total_error(element)
  if terms <= 1:
    return total
  slack = total * rounding.relative(total.dtype, terms)
  return total + lax.stop_gradient(slack)


def nearest_bounds(element: HybridZonotope) -> tuple[Array, Array]:
  """Lower and upper bounds, rounded to nearest: for losses, never for proofs.

  Where bounds are equal in exact arithmetic (the 0 below which no ReLU goes),
  outward rounding by each variable's own error would tell them apart.
  """
  total, _ = _total_error(element)
  return element.center - total, element.center + total


def _total_error(element: HybridZonotope) -> tuple[Array, int]:
  """h_B + Σ|h_E|, and how many numbers were summed for a variable."""
  blocks = element.correlated.values()
  sums = [generators.absolute_sum(block) for block in blocks]
  terms = sum(generators.terms_summed(block) for block in blocks)
  if element.uncorrelated is not None:
    sums.append(element.uncorrelated)
    terms += 1
  if not sums:
    return jnp.zeros_like(element.center), 0
  return functools.reduce(operator.add, sums), terms


def lower(element: HybridZonotope) -> Array:
  """Lower bounds of the interval concretization ι_H (paper, section 2).

  Shape [B, ...]; rounded down, so no point of γ(h) lies below.
  """
  total = radius(element)
  return element.center - total - _slack(element.center, total)


def upper(element: HybridZonotope) -> Array:
  """Upper bounds of the interval concretization, rounded up, [B, ...]."""
  total = radius(element)
  return element.center + total + _slack(element.center, total)


def _slack(center: Array, total: Array) -> Array:
  magnitude = jnp.abs(center) + total
  slack = rounding.elementary(center.dtype) * magnitude
  # A difference so small that it underflows is lost; that of zeros is exact.
  tiny = jnp.where(magnitude > 0, rounding.tiny(center.dtype), 0)
  return lax.stop_gradient(slack + tiny)
