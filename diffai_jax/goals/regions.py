"""Goals on whole input boxes (paper, Table 1), and the box itself.

They serve training and certification alike: `certify.methods` names them.
"""

import dataclasses

from diffai_jax.domains.hybrid_zonotope import HybridZonotope, from_bounds
from diffai_jax.domains.identity import fresh_symbol
from diffai_jax.goals.base import Context, Goal
from diffai_jax.regions import Linf
from diffai_jax.transformers import correlate_all
from diffai_jax.types import Array


def ball(
    images: Array,
    epsilon: float | Array,
    data_range: tuple[float, float] | None = (0.0, 1.0),
) -> tuple[Array, Array]:
  """Lower and upper bounds of the L∞ ball, as `Linf.bounds` has them."""
  return Linf(epsilon, data_range).bounds(images)


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
