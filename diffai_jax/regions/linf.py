"""The L∞ ball around points, within the range of the data."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    from_bounds,
    point,
)
from diffai_jax.kernels import precision
from diffai_jax.regions.box_bounds import drawn, largest
from diffai_jax.types import Array, PRNGKey, shown

Range = tuple[float, float] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linf:
  """All points of the data's range that are within ε of an image, everywhere.

  A pytree: ε is an argument of a compiled program, and the range a part of it.
  Each method takes the images [B, ...] that the region is around.

  Attributes:
    epsilon: ε ≥ 0, in the images' units: a number; [B], one for each example;
      or whatever broadcasts against one image, or against all of them, one for
      each variable.
    data_range: lowest and highest value that data can have; None where they
      have no range (static).

  >>> import jax.numpy as jnp
  >>> lower, upper = Linf(0.25).bounds(jnp.array([[0.5, 1.0]]))
  >>> print(lower.astype("float16"), upper.astype("float16"))
  [[0.25 0.75]] [[0.75 1.  ]]
  """

  epsilon: float | Array
  data_range: Range = dataclasses.field(
      default=(0.0, 1.0), metadata={"static": True}
  )

  def bounds(self, images: Array) -> tuple[Array, Array]:
    """The region's lower and upper bounds in each variable.

    They are max(o - ε, a) and min(o + ε, b) (paper, section 4.2), rounded
    outwards: every float within ε of the image is inside, and images at the
    range's ends lose nothing. With ε = 0 it is the image alone.

    Args:
      images: o, [B, ...], within the range [a, b].

    Returns:
      (lower, upper), [B, ...] each. NaN, which proves nothing, where a traced ε
      is negative or NaN, or a traced image is not within the range.

    Raises:
      ValueError: if ε is known to be negative or NaN, an image to be outside of
        the range, if ε's shape fits none that the images allow for, or more
        than one, or if the range is none.
    """
    epsilon = aligned(self.epsilon, jnp.shape(images))
    negative = ~(epsilon >= 0)
    precision.refuse(
        negative, "is no radius of a ball; give one of at least 0", epsilon
    )
    # NumPy's float64 moves when JAX has no such type.
    element = point(images)
    images, moved = element.center, element.uncorrelated
    dtype = images.dtype
    data_range = _rounded_outwards(self.data_range, dtype)
    wrong = outside(images, data_range)
    reach = jnp.asarray(epsilon, dtype)
    slack = rounding.elementary(dtype) * (jnp.abs(images) + reach)
    slack = slack + 2 * rounding.tiny(dtype)  # Of sums that underflow.
    reach = reach + lax.stop_gradient(jnp.where(epsilon > 0, slack, 0))
    if moved is not None:
      reach = (reach + moved) * (1 + rounding.elementary(dtype))
    reach = jnp.where(wrong | negative, jnp.nan, reach)
    return tuple(
        bound if data_range is None else jnp.clip(bound, *data_range)
        for bound in (images - reach, images + reach)
    )

  def element(self, images: Array) -> HybridZonotope:
    """The box that contains the region."""
    return from_bounds(*self.bounds(images))

  def project(self, points: Array, images: Array) -> Array:
    """The points of the region that are nearest to the given ones, [B, ...]."""
    return jnp.clip(points, *self.bounds(images))

  def sample(self, keys: PRNGKey, images: Array) -> Array:
    """Points drawn uniformly from the region, [B, ...].

    Args:
      keys: a random key for each example, [B].
      images: [B, ...].
    """
    return drawn(keys, *self.bounds(images))

  def steepest(self, gradient: Array) -> Array:
    """The step d with |d| ≤ ε along which ⟨gradient, d⟩ is largest, [B, ...].

    It is ε·sign(gradient): FGSM's. What leaves the range, `project` brings back.
    """
    epsilon = aligned(self.epsilon, jnp.shape(gradient))
    return jnp.asarray(epsilon, gradient.dtype) * jnp.sign(gradient)

  def linear_max(self, coefficients: Array, images: Array) -> Array:
    """Upper bounds of ⟨coefficients, x⟩ over the points x of the region.

    Args:
      coefficients: [B, S, ...], S linear functions for each example.
      images: [B, ...].

    Returns:
      [B, S], above the exact values; NaN where a sum may overflow.
    """
    return largest(coefficients, *self.bounds(images))


def aligned(epsilon: float | Array, shape: tuple[int, ...]) -> Array:
  """ε with as many axes as the images have, or none.

  Args:
    epsilon: as `Linf` takes it.
    shape: of the images, [B, ...].

  Raises:
    ValueError: if its shape fits none that the images allow for, or could be
      that of the examples and that of the variables.
  """
  epsilon = epsilon if hasattr(epsilon, "dtype") else np.asarray(epsilon, float)
  own, rank = epsilon.shape, len(shape)
  if not own:
    return epsilon
  if len(own) == rank and _broadcasts(own, shape):
    return epsilon
  by_example, by_variable = own == shape[:1], _broadcasts(own, shape[1:])
  if by_example and by_variable and own != (1,):
    raise ValueError(
        f"epsilon {list(own)} may be one for each example or one for each"
        f" variable of images {list(shape)}; give it as"
        f" {[shape[0]] + [1] * (rank - 1)} or {[1] * (rank - 1) + list(own)}"
    )
  if by_example:
    return epsilon.reshape(own + (1,) * (rank - 1))
  if by_variable:
    return epsilon.reshape((1,) * (rank - len(own)) + own)
  raise ValueError(
      f"epsilon is {list(own)}, but images are {list(shape)}; expected a number,"
      f" {list(shape[:1])} (one for each example), or what broadcasts against"
      f" {list(shape[1:])} or {list(shape)} (one for each variable)"
  )


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
  try:
    return np.broadcast_shapes(shape, to) == to
  except ValueError:
    return False


def _rounded_outwards(data_range: Range, dtype) -> Range:
  """The smallest range between numbers of that type which contains it."""
  if data_range is None:
    return None
  if not data_range[0] < data_range[1]:
    raise ValueError(
        f"data_range is {shown(data_range)}; expected (lowest, highest), or None"
    )
  low, high = (np.asarray(end, dtype) for end in data_range)
  infinity = np.asarray(np.inf, dtype)
  if float(low) > data_range[0]:
    low = np.nextafter(low, -infinity)
  if float(high) < data_range[1]:
    high = np.nextafter(high, infinity)
  return float(low), float(high)


def outside(images: Array, data_range: Range) -> Array:
  """Which entries are not within the range of the data, bool [B, ...].

  NaN is not.

  Raises:
    ValueError: if one is known to be outside.
  """
  if data_range is None:
    return jnp.zeros_like(images, bool)
  low, high = data_range
  wrong = ~((images >= low) & (images <= high))
  precision.refuse(
      wrong,
      f"is outside of the data's range, {low:g} to {high:g}; give the range"
      f" of the data with data_range=(lowest, highest), or None",
      images,
  )
  return wrong
