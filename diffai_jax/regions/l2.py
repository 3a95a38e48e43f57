"""The L2 ball around points, within the range of the data."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, from_bounds
from diffai_jax.kernels import precision
from diffai_jax.regions.box_bounds import largest
from diffai_jax.regions.linf import Linf, Range, aligned
from diffai_jax.types import Array, PRNGKey

_HALVINGS = 40  # Of the interval in which the nearest point is looked for.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class L2:
  """All points of the data's range within the Euclidean distance ε of an image.

  A pytree, with the methods of `Linf`. Backward bounds take the ball itself,
  through `linear_max`; an element is the box around it.

  Attributes:
    epsilon: ε ≥ 0, in the images' units: a number, or [B], one for each example.
    data_range: lowest and highest value that data can have; None where they
      have no range (static).

  >>> import numpy as np
  >>> step = L2(1.0).steepest(np.array([[3.0, 4.0]], np.float32))
  >>> print(np.round(step, 3))
  [[0.6 0.8]]
  """

  epsilon: float | Array
  data_range: Range = dataclasses.field(
      default=(0.0, 1.0), metadata={"static": True}
  )

  def bounds(self, images: Array) -> tuple[Array, Array]:
    """The box around the region, rounded outwards: that of `Linf`.

    Args:
      images: o, [B, ...], within the data's range.

    Raises:
      ValueError: as those of `Linf`, and if ε differs between variables.
    """
    self._radius(jnp.shape(images))
    return Linf(self.epsilon, self.data_range).bounds(images)

  def element(self, images: Array) -> HybridZonotope:
    """The box that contains the region."""
    return from_bounds(*self.bounds(images))

  def project(self, points: Array, images: Array) -> Array:
    """The points of the region that are nearest to the given ones, [B, ...].

    The point nearest to p of the ball and the range [a, b] at once is
    clip(o + t·(p - o), a, b) for some t in [0, 1] (the Lagrangian's minimum is
    t = 1/(1 + λ)). Its distance from o rises with t, so halving finds the largest
    t that stays in the ball, of which a rounding's width is left out.
    """
    images, low, high, epsilon = self._ball(images)
    way = precision.strongly(points, images.dtype) - images
    at = lambda t: jnp.clip(images + t * way, low, high)
    inside = lambda x: _norm(x - images) <= epsilon

    def halve(_, ends):
      small, large = ends
      middle = (small + large) / 2
      good = inside(at(middle))
      return jnp.where(good, middle, small), jnp.where(good, large, middle)

    ends = jnp.zeros_like(epsilon), jnp.ones_like(epsilon)
    share, _ = lax.fori_loop(0, _HALVINGS, halve, ends)
    whole = jnp.clip(precision.strongly(points, images.dtype), low, high)
    return jnp.where(inside(whole), whole, at(share))

  def sample(self, keys: PRNGKey, images: Array) -> Array:
    """Points of the region, [B, ...], drawn uniformly from the ball.

    Those outside of the data's range move to its nearest point, which is in the
    ball too, so that points are denser at the ends of the range.

    Args:
      keys: a random key for each example, [B].
      images: [B, ...].
    """
    images, low, high, epsilon = self._ball(images)
    shape, dtype = images.shape[1:], images.dtype

    def direction(key):
      first, second = jax.random.split(key)
      normal = jax.random.normal(first, shape, dtype)
      share = jax.random.uniform(second, (1,) * len(shape), dtype)
      return normal, share ** (1 / max(1, normal.size))

    normal, share = jax.vmap(direction)(keys)
    step = share * epsilon * _unit(normal)
    return jnp.clip(images + step, low, high)

  def steepest(self, gradient: Array) -> Array:
    """The step d of length ε along which ⟨gradient, d⟩ is largest, [B, ...].

    It points along the gradient; 0 where that is 0.
    """
    epsilon = self._radius(jnp.shape(gradient))
    return jnp.asarray(epsilon, gradient.dtype) * _unit(gradient)

  def linear_max(self, coefficients: Array, images: Array) -> Array:
    """Upper bounds of ⟨coefficients, x⟩ over the points x of the region.

    The lesser of ⟨c, o⟩ + ε·‖c‖₂, which is what the ball attains, and of the
    bound over the box around the region. Each is attained where the other
    excludes nothing.

    Args:
      coefficients: c, [B, S, ...], S linear functions for each example.
      images: o, [B, ...].

    Returns:
      [B, S]. They hold in exact arithmetic and for every evaluation in the
      bounds' type; NaN where a sum may overflow.
    """
    low, high = self.bounds(images)
    box = largest(coefficients, low, high)
    images = precision.strongly(images, low.dtype)
    epsilon = jnp.asarray(self._radius(images.shape), low.dtype)
    dtype = precision.widest(coefficients, low)
    coefficients = precision.strongly(coefficients, dtype)
    images, epsilon = (
        precision.strongly(a, dtype)[:, None] if jnp.ndim(a)
        else precision.strongly(a, dtype) for a in (images, epsilon)
    )
    terms = max(1, coefficients[0, 0].size)
    axes = tuple(range(2, coefficients.ndim))
    at = coefficients * images
    epsilon = jnp.reshape(epsilon, jnp.shape(epsilon)[:2])
    reach = epsilon * jnp.reshape(_norm(coefficients, 2), box.shape)
    size = jnp.sum(jnp.abs(at), axes) + reach
    # For the bound, and for an evaluation of ⟨c, x⟩, whose terms are at most
    # those of ⟨|c|, |o|⟩ and of ⟨|c|, |x - o|⟩ ≤ ε·‖c‖.
    slack = 2 * rounding.relative(dtype, terms) * size
    slack = slack + rounding.absolute(dtype, terms) * (1 + epsilon)
    ball = jnp.sum(at, axes) + reach + lax.stop_gradient(slack)
    known = size <= rounding.largest(dtype)
    least = jnp.where(known, jnp.minimum(ball, box), box)
    return jnp.where(jnp.isnan(box), jnp.nan, least)

  def _radius(self, shape: tuple[int, ...]) -> Array:
    """ε as a number or [B, 1, ...]."""
    epsilon = aligned(self.epsilon, shape)
    if any(size != 1 for size in epsilon.shape[1:]):
      raise ValueError(
          f"epsilon is {list(np.shape(self.epsilon))}; an L2 ball has one radius"
          f" in all directions: give a number or [{shape[0]}], one an example"
      )
    return epsilon

  def _ball(self, images: Array) -> tuple[Array, Array, Array, Array]:
    """Images, the box around, and a radius [B, 1, ...] that allows for rounding.

    Points whose distance is found to be at most this radius are in the ball.
    """
    low, high = self.bounds(images)
    images = precision.strongly(images, low.dtype)
    epsilon = jnp.asarray(self._radius(images.shape), low.dtype)
    epsilon = jnp.broadcast_to(
        epsilon, images.shape[:1] + (1,) * (images.ndim - 1)
    )
    # What the norm of x - o is off by, and what rounding of x moves it by.
    kept = max(0.0, 1 - 2 * rounding.relative(low.dtype, images[0].size))
    ends = jnp.maximum(jnp.abs(low), jnp.abs(high))
    moved = rounding.elementary(low.dtype) * _norm(ends)
    return images, low, high, jnp.maximum(epsilon * kept - moved, 0)


def _norm(values: Array, batch_axes: int = 1) -> Array:
  """Euclidean norms over all but the first axes, kept as 1; none overflows."""
  axes = tuple(range(batch_axes, values.ndim))
  scale = jnp.max(jnp.abs(values), axes, keepdims=True, initial=0)
  scale = lax.stop_gradient(scale)
  safe = jnp.where(scale > 0, scale, 1)
  squares = jnp.sum(jnp.square(values / safe), axes, keepdims=True)
  some = squares > 0
  root = jnp.sqrt(jnp.where(some, squares, 1))
  return jnp.where(some, root * safe, 0 * squares)


def _unit(values: Array) -> Array:
  """Directions of length 1; 0 of what is 0."""
  norm = _norm(values)
  return jnp.where(norm > 0, values / jnp.where(norm > 0, norm, 1), 0)
