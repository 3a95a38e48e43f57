"""Goals on whole input boxes (paper, Table 1), and the box itself.

They serve training and certification alike: `certify.domains` names them.
"""

import dataclasses

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    from_bounds,
    point,
)
from diffai_jax.domains.identity import fresh_symbol
from diffai_jax.goals.base import Context, Goal
from diffai_jax.kernels import precision
from diffai_jax.transformers import correlate_all
from diffai_jax.types import Array


def ball(
    images: Array,
    epsilon: float | Array,
    data_range: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Array, Array]:
  """The L∞ ball around images, within the range of the data.

  Lower and upper are max(o - ε, a) and min(o + ε, b) (paper, section 4.2),
  rounded outwards: every float within ε of the image is inside, and images at
  the range's ends lose nothing. With ε = 0 it is the image alone.

  Args:
    images: [B, ...], within the range.
    epsilon: radius ≥ 0, in the images' units; broadcasts against them.
    data_range: (a, b), or None where data have no range.

  Returns:
    (lower, upper), [B, ...] each. NaN, which proves nothing, where a traced ε
    is negative or a traced image is not within the range.

  Raises:
    ValueError: if ε is known to be negative or NaN, or an image to be outside
      of the range.
  """
  epsilon = epsilon if hasattr(epsilon, "dtype") else np.asarray(epsilon, float)
  negative = ~(epsilon >= 0)
  precision.refuse(
      negative, "is no radius of a ball; give one of at least 0", epsilon
  )
  # NumPy's float64 moves when JAX has no such type.
  element = point(images)
  images, moved = element.center, element.uncorrelated
  wrong = outside(images, data_range)
  dtype = images.dtype
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


def outside(
    images: Array, data_range: tuple[float, float] | None
) -> Array:
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


@dataclasses.dataclass(frozen=True)
class Box(Goal):
  """The box ⟨(l + u)/2, (u - l)/2, 0⟩: interval bounds (IBP).

  Its loss is the cross entropy of the upper bounds of z_k - z_y, at least that
  of every point of the box (paper, section 4.2; Gowal et al. 2018).
  """

  def abstract(
      self, lower: Array, upper: Array, context: Context
  ) -> HybridZonotope:
    return from_bounds(lower, upper)


class _Zonotope(Goal):
  """A box with every input variable a noise symbol: Box's loss, sharper.

  Attributes:
    relu: the ReLU rule, a key of `transformers.relu.RULES`.
    zonotope: whether fresh error becomes symbols too.
  """

  relu = "box"
  zonotope = False

  def abstract(
      self, lower: Array, upper: Array, context: Context
  ) -> HybridZonotope:
    element = correlate_all(from_bounds(lower, upper), fresh_symbol("input"))
    return dataclasses.replace(element, relu=self.relu, zonotope=self.zonotope)


@dataclasses.dataclass(frozen=True)
class HBox(_Zonotope):
  """Hybrid zonotope, ReLU rule `box`: symbols stay where the sign is known."""


@dataclasses.dataclass(frozen=True)
class HSwitch(_Zonotope):
  """Hybrid zonotope, ReLU rule `switch`."""

  relu = "switch"


@dataclasses.dataclass(frozen=True)
class HSmooth(_Zonotope):
  """Hybrid zonotope, ReLU rule `smooth`."""

  relu = "smooth"


@dataclasses.dataclass(frozen=True)
class HDeepZ(_Zonotope):
  """Hybrid zonotope, ReLU rule `deepz` (HNIPS in DiffAI v3)."""

  relu = "deepz"


@dataclasses.dataclass(frozen=True)
class ZBox(HBox):
  """Pure zonotope, ReLU rule `box`: fresh error becomes symbols."""

  zonotope = True


@dataclasses.dataclass(frozen=True)
class ZSwitch(HSwitch):
  """Pure zonotope, ReLU rule `switch`."""

  zonotope = True


@dataclasses.dataclass(frozen=True)
class ZSmooth(HSmooth):
  """Pure zonotope, ReLU rule `smooth`."""

  zonotope = True


@dataclasses.dataclass(frozen=True)
class ZDeepZ(HDeepZ):
  """Pure zonotope, ReLU rule `deepz`: the most precise of these domains."""

  zonotope = True


# Goals whose element contains the whole input box: what can certify.
REGIONS: dict[str, Goal] = {
    region.__name__: region()
    for region in (
        Box, HBox, HSwitch, HSmooth, HDeepZ, ZBox, ZSwitch, ZSmooth, ZDeepZ
    )
}
