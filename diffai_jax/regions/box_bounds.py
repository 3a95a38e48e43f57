"""Boxes: explicit bounds of each variable, and what all boxes have in common."""

import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    from_bounds,
    upwards,
)
from diffai_jax.domains.long_sums import long_sum, terms_of
from diffai_jax.kernels import precision
from diffai_jax.kernels.platforms import computed_once
from diffai_jax.types import Array, PRNGKey


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bounds:
  """All points between two bounds. Equal bounds fix a variable.

  A pytree: the bounds are arguments of a compiled program. Its methods are
  those of `Linf`. The images that they take, [B, ...], say how many examples
  there are; None is as many as the bounds have.

  Attributes:
    lower: [B, ...], or what broadcasts against the images.
    upper: likewise. At least `lower`.

  >>> import numpy as np
  >>> region = Bounds(np.array([[0.0, 0.5]]), np.array([[1.0, 0.5]]))
  >>> print(region.element(None).center)
  [[0.5 0.5]]
  """

  lower: Array
  upper: Array

  def bounds(self, images: Array | None = None) -> tuple[Array, Array]:
    """The bounds in JAX's type, rounded outwards where it cannot hold them.

    Args:
      images: [B, ...], of which the shape alone counts; or None.

    Returns:
      (lower, upper), [B, ...] each. NaN, which proves nothing, where traced
      bounds are NaN or exchanged.

    Raises:
      ValueError: if a lower bound is known to be above its upper bound or NaN,
        or a bound does not broadcast against the images.
    """
    given = tuple(
        b if hasattr(b, "dtype") else np.asarray(b, float)
        for b in (self.lower, self.upper)
    )
    shapes = [tuple(np.shape(b)) for b in given]
    try:
      shape = np.broadcast_shapes(*shapes)
      if images is not None:
        if np.broadcast_shapes(shape, np.shape(images)) != np.shape(images):
          raise ValueError
        shape = np.shape(images)
    except ValueError:
      like = "" if images is None else f", images {list(np.shape(images))}"
      raise ValueError(
          f"lower bounds are {list(shapes[0])}, upper ones"
          f" {list(shapes[1])}{like}; expected [B, ...] each, or one example's"
      ) from None
    precision.refuse(
        ~(given[0] <= given[1]),
        "is a lower bound that is not below its upper bound; exchange them",
        given[0],
    )
    dtype = precision.widest(*given)
    low = -upwards(-given[0], dtype)
    high = upwards(given[1], dtype)
    wrong = ~(low <= high)
    return tuple(
        jnp.broadcast_to(jnp.where(wrong, jnp.nan, bound), shape)
        for bound in (low, high)
    )

  def element(self, images: Array | None = None) -> HybridZonotope:
    """The box as an element."""
    return from_bounds(*self.bounds(images))

  def project(self, points: Array, images: Array | None = None) -> Array:
    """The points of the region that are nearest to the given ones, [B, ...]."""
    return jnp.clip(points, *self.bounds(images))

  def sample(self, keys: PRNGKey, images: Array | None = None) -> Array:
    """Points drawn uniformly from the region, [B, ...]; a key for each example."""
    return drawn(keys, *self.bounds(images))

  def steepest(self, gradient: Array) -> Array:
    """The way from the box's middle to where ⟨gradient, x⟩ is largest, [B, ...].

    It is half of the box's width times sign(gradient), as it is for `Linf`.
    """
    low, high = self.bounds(gradient)
    return (high / 2 - low / 2).astype(gradient.dtype) * jnp.sign(gradient)

  def linear_max(
      self, coefficients: Array, images: Array | None = None
  ) -> Array:
    """Upper bounds of ⟨coefficients, x⟩ over the region: see `largest`."""
    return largest(coefficients, *self.bounds(images))


def largest(coefficients: Array, lower: Array, upper: Array) -> Array:
  """Upper bounds of ⟨coefficients, x⟩ over boxes.

  Args:
    coefficients: [B, S, ...], S linear functions for each example.
    lower, upper: [B, ...].

  Returns:
    [B, S], above the exact values; NaN where a sum may overflow.
  """
  # Once for all rows, whatever the bounds are computed by.
  lower, upper = (
      bound[:, None] for bound in computed_once((lower, upper))
  )
  dtype = precision.widest(coefficients, lower)
  lower, upper, coefficients = (
      precision.strongly(a, dtype) for a in (lower, upper, coefficients)
  )
  count = math.prod(coefficients.shape[2:])
  ends = coefficients * lower, coefficients * upper
  # 0 times an infinite bound is 0 here.
  ends = [jnp.where(coefficients == 0, 0, end) for end in ends]
  # Of the sum; products' and allowances' roundings are among its extra terms.
  share = rounding.relative(dtype, terms_of(count))
  slack = share * jnp.maximum(*map(jnp.abs, ends))
  each = jnp.maximum(*ends) + lax.stop_gradient(slack)
  total = long_sum(each.reshape(each.shape[:2] + (count,)))
  return total + rounding.absolute(dtype, count)


def drawn(keys: PRNGKey, lower: Array, upper: Array) -> Array:
  """Points drawn uniformly from boxes, [B, ...].

  Args:
    keys: a random key for each example, [B].
    lower, upper: [B, ...].
  """
  noise = jax.vmap(
      lambda key: jax.random.uniform(key, lower.shape[1:], lower.dtype)
  )(keys)
  return jnp.clip(lower + (upper - lower) * noise, lower, upper)
