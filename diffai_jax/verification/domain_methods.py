"""Methods of certification, and those that push elements through the network.

A method bounds linear functions of the output over a region around each image,
such as z_k - z_y. What is proved with it
holds for the network in exact arithmetic and as it is computed.
"""

from collections.abc import Callable
import dataclasses

from diffai_jax.domains import HybridZonotope
from diffai_jax.domains.product import Value
from diffai_jax.goals import REGIONS, Context
from diffai_jax.graph import Graph, correlate_before_last
from diffai_jax.kernels.platforms import computed_once
from diffai_jax.regions import Linf, Spec, upper_bounds
from diffai_jax.text.terms import Term
from diffai_jax.types import Array

Network = Graph | Callable[[Value], Value]


class Method(Term):
  """Base: a subclass is a frozen dataclass, static in compiled programs."""

  def bound(
      self, graph: Network, images: Array, region: Linf, spec: Spec
  ) -> Array:
    """Upper bounds of C·z + d over the region, [B, S].

    Args:
      graph: the network, with the abstract layers that certification has; a
        function of values, where it is no graph.
      images: that the region is around, [B, ...].
      region: what inputs may be.
      spec: with the rows C and the offsets d.
    """
    raise NotImplementedError


class Domain(Method):
  """Base of methods that push the region through the network as one element.

  Which, the goal of the same name says (`goals.REGIONS`).
  """

  def element(self, images: Array, region: Linf) -> HybridZonotope:
    """The element that contains the region around each image."""
    # Once, and not again for each tap of a first convolution.
    bounds = computed_once(region.bounds(images))
    return self._goal.abstract(*bounds, _NO_CONTEXT)

  def bound(
      self, graph: Network, images: Array, region: Linf, spec: Spec
  ) -> Array:
    if isinstance(graph, Graph):
      graph = correlate_before_last(graph)
    return upper_bounds(graph(self.element(images, region)), spec)

  @property
  def _goal(self):
    return REGIONS[type(self).__name__]


# Goals on regions make nothing of theirs.
_NO_CONTEXT = Context(
    forward=lambda value, mode: value, labels=(), epoch=0.0
)


@dataclasses.dataclass(frozen=True)
class Box(Domain):
  """Interval bounds: the fastest method, and the one that proves least."""


@dataclasses.dataclass(frozen=True)
class HBox(Domain):
  """Hybrid zonotope, ReLU rule `box`: symbols stay where the sign is known."""


@dataclasses.dataclass(frozen=True)
class HSwitch(Domain):
  """Hybrid zonotope, ReLU rule `switch`."""


@dataclasses.dataclass(frozen=True)
class HSmooth(Domain):
  """Hybrid zonotope, ReLU rule `smooth`."""


@dataclasses.dataclass(frozen=True)
class HDeepZ(Domain):
  """Hybrid zonotope, ReLU rule `deepz`."""


@dataclasses.dataclass(frozen=True)
class ZBox(Domain):
  """Pure zonotope, ReLU rule `box`: fresh error becomes symbols."""


@dataclasses.dataclass(frozen=True)
class ZSwitch(Domain):
  """Pure zonotope, ReLU rule `switch`."""


@dataclasses.dataclass(frozen=True)
class ZSmooth(Domain):
  """Pure zonotope, ReLU rule `smooth`."""


@dataclasses.dataclass(frozen=True)
class ZDeepZ(Domain):
  """Pure zonotope, ReLU rule `deepz`: the most precise of these."""


DOMAINS = (Box, HBox, HSwitch, HSmooth, HDeepZ, ZBox, ZSwitch, ZSmooth, ZDeepZ)
