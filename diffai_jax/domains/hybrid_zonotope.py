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
from diffai_jax.kernels import precision
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
    relu: which ReLU rule the element uses, a key of `transformers.relu.RULES` or
      what `transformers.relu.shrunk_rule` gives (static). With "box", other activations use their interval rule, else the
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

  Numbers that JAX's floating-point type cannot hold, such as NumPy's float64
  without x64, get the error of their conversion as radius; here and in the other
  makers. An element has one type, that of its center.
  """
  center, moved = _converted(x)
  return HybridZonotope(center, moved)


def box(center: Array, radius: Array) -> HybridZonotope:
  """The box of radius `radius` ≥ 0 around `center`, both [B, ...].

  It is exactly the set of these two arrays: nothing is widened, but a radius of
  another type than the center's is rounded up.

  Raises:
    ValueError: if a radius is known to be negative. Where it is traced, the
      element's radius is NaN there, which proves nothing.
  """
  center, moved = _converted(center)
  return HybridZonotope(center, _widened(radius, moved, center))


def from_bounds(lower: Array, upper: Array) -> HybridZonotope:
  """A box that contains [lower, upper], both [B, ...].

  The midpoint is rounded, so the radius is the distance from the rounded one to
  the farther bound, plus its own rounding and, for differences that underflow,
  a smallest normal number: sound to the last bit.

  Raises:
    ValueError: if a lower bound is known to be above its upper bound. Where
      they are traced, the radius is NaN there, which proves nothing.
  """
  dtype = precision.widest(lower, upper)
  (lower, below), (upper, above) = (
      _converted(bound, dtype) for bound in (lower, upper)
  )
  precision.refuse(
      lower > upper,
      "is a lower bound above its upper bound; exchange them", lower,
  )
  center = lower / 2 + upper / 2  # Their sum could overflow.
  reach = jnp.maximum(upper - center, center - lower)
  slack = reach * rounding.elementary(dtype)
  # Halves and differences may underflow; those of equal bounds are exact.
  slack = slack + jnp.where(lower == upper, 0, 4 * rounding.tiny(dtype))
  radius = reach + lax.stop_gradient(slack)
  for moved in (below, above):
    radius = radius if moved is None else radius + moved
  return HybridZonotope(center, jnp.where(lower <= upper, radius, jnp.nan))


def correlated_box(
    center: Array, radius: Array, symbol: str | None = None
) -> HybridZonotope:
  """The box of `box`, with one noise symbol a variable (HBox's input).

  Args:
    center: [B, ...].
    radius: [B, ...], non-negative.
    symbol: name of the new symbols; None makes one that nothing else has.
      Boxes that are given one name depend on the same symbols, and a jitted
      function compiles anew for an element whose names it has not seen.

  Raises:
    ValueError: if the name ends in # and digits, as names of layers do.
  """
  if symbol is None:
    symbol = fresh_symbol("input")
  require_symbol(symbol)
  center, moved = _converted(center)
  radius = _widened(radius, moved, center)
  return HybridZonotope(center, None, {symbol: Diagonal(radius)})


def _converted(x: Array, dtype=None) -> tuple[Array, Array | None]:
  """x in a type, its own by default, and the error of that conversion.

  None stands for no error.

  Raises:
    TypeError: if x is not of a floating-point type.
  """
  x = x if hasattr(x, "dtype") else np.asarray(x)
  dtype = dtype or precision.widest(x)
  held = precision.strongly(x, dtype)
  if precision.holds(dtype, x.dtype):
    return held, None
  moved = abs(x - np.asarray(held, x.dtype)) if isinstance(x, np.ndarray) else (
      jnp.abs(x - held.astype(x.dtype))
  )
  return held, jnp.asarray(upwards(moved, dtype))


def _widened(radius: Array, moved: Array | None, center: Array) -> Array:
  """A radius in the center's type, not smaller, plus the center's conversion."""
  if not hasattr(radius, "dtype"):
    radius = np.asarray(radius, float)
  precision.refuse(
      radius < 0, "is a negative radius; give one of at least 0", radius
  )
  radius = jnp.broadcast_to(upwards(radius, center.dtype), center.shape)
  radius = jnp.where(radius < 0, jnp.nan, radius)
  if moved is None:
    return radius
  return (radius + moved) * (1 + rounding.elementary(moved.dtype))


def upwards(values: Array, dtype) -> Array:
  """The least numbers of that type that are not below the given ones.

  No subnormal ones, for which XLA would take 0. NumPy's stay NumPy's.
  """
  numpy = jnp if isinstance(values, jax.Array) else np
  if numpy is jnp and values.dtype == dtype:
    return precision.strongly(values, dtype)
  with np.errstate(over="ignore"):
    nearest = values.astype(dtype)
  above = numpy.nextafter(nearest, numpy.asarray(np.inf, dtype))
  # In their own type: weak ones, and whole ones, would be compared in `dtype`.
  held = numpy.where(nearest.astype(values.dtype) < values, above, nearest)
  tiny = numpy.asarray(rounding.tiny(dtype), dtype)
  small = (numpy.abs(held) < tiny) & (values != 0)
  least = numpy.where(values > 0, tiny, numpy.zeros_like(tiny))
  return numpy.where(small, least, held)


def radius(element: HybridZonotope) -> Array:
  """The total error ε_H = h_B + Σ|h_E| of the interval concretization.

  Shape [B, ...]. Long sums round, so it is widened by as much as the sum can
  be off; without generators it is `uncorrelated` itself. NaN where that is
  negative, as in an element that was built by hand.
  """
  total, terms = _total_error(element)
  if terms <= 1:
    return total
  slack = total * rounding.relative(total.dtype, terms)
  # What of this underflows; the sum of zeros is exact.
  slack = slack + jnp.where(total > 0, rounding.tiny(total.dtype), 0)
  return total + lax.stop_gradient(slack)


def nearest_bounds(element: HybridZonotope) -> tuple[Array, Array]:
  """Lower and upper bounds, rounded to nearest: for losses, never for proofs.

  Bounds that are equal in exact arithmetic, such as lower bounds 0 after ReLUs,
  stay equal, which outward rounding by each variable's own error would undo.
  """
  element = precision.in_one_type(element)
  total, _ = _total_error(element)
  return element.center - total, element.center + total


def _total_error(element: HybridZonotope) -> tuple[Array, int]:
  """h_B + Σ|h_E|, and how many numbers were summed for a variable."""
  element = precision.in_one_type(element)
  blocks = element.correlated.values()
  sums = [generators.absolute_sum(block) for block in blocks]
  terms = sum(generators.terms_summed(block) for block in blocks)
  if element.uncorrelated is not None:
    sums.append(sound(element.uncorrelated))
    terms += 1
  if not sums:
    return jnp.zeros_like(element.center), 0
  return functools.reduce(operator.add, sums), terms


def sound(uncorrelated: Array) -> Array:
  """Radii, with NaN for negative ones: they stand for no set."""
  return jnp.where(uncorrelated < 0, jnp.nan, uncorrelated)


def lower(element: HybridZonotope) -> Array:
  """Lower bounds of the interval concretization ι_H (paper, section 2).

  Shape [B, ...]; rounded down, so no point of γ(h) lies below.
  """
  center, total = _center_and_radius(element)
  return center - total - _slack(center, total)


def upper(element: HybridZonotope) -> Array:
  """Upper bounds of the interval concretization, rounded up, [B, ...]."""
  center, total = _center_and_radius(element)
  return center + total + _slack(center, total)


def _center_and_radius(element: HybridZonotope) -> tuple[Array, Array]:
  element = precision.in_one_type(element)
  return element.center, radius(element)


def _slack(center: Array, total: Array) -> Array:
  magnitude = jnp.abs(center) + total
  slack = rounding.elementary(center.dtype) * magnitude
  # A difference so small that it underflows is lost; that of zeros is exact.
  tiny = jnp.where(magnitude > 0, rounding.tiny(center.dtype), 0)
  return lax.stop_gradient(slack + tiny)
