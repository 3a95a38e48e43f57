"""Methods whose bounds are linear ones, walked backwards: CROWN and its family.

Each bounds what the spec asks about by the rows C themselves, so what outputs share
cancels. They differ in the bounds of inner neurons and in the lines' slopes.

Lines are chosen by rules of thumb, which better inner bounds may lead to worse ones:
each method also takes the bounds of the one below it (Box, CROWN_IBP, CROWN,
AlphaCROWN), and gives the least. So a stronger one is never worse. Box's are those of
`over_box`, from the intervals that CROWN_IBP's lines have; AlphaCROWN begins with the
lines of CROWN.
"""

import dataclasses
import math

import jax.numpy as jnp

from diffai_jax.backward import (
    Inner,
    chosen_slopes,
    inner_bounds,
    over_box,
    upper_bounds,
    way_to,
)
from diffai_jax.backward.relaxed_steps import Bounds
from diffai_jax.graph import Graph
from diffai_jax.regions import Linf, Spec
from diffai_jax.types import Array, UsageError, shown
from diffai_jax.verification.domain_methods import Box, Domain, Method

_MOST_STEPS = 100_000
_MOST_OUTPUTS = 1000  # That `results` bounds by dense rows.


class Linear(Method):
  """Base: linear bounds of the spec's rows over a graph."""

  def inner(
      self, graph: Graph, images: Array, region: Linf, everywhere: bool = False
  ) -> Inner:
    """Bounds of all results, and what is walked back.

    Args:
      graph, images, region: as `bound` takes them.
      everywhere: whether neurons are bounded whose bounds decide nothing, too.
    """
    raise NotImplementedError

  def chosen(self, way, *problem) -> dict | None:
    """Slopes of lines; None are the lines' own."""
    return None

  def bound(
      self, graph: Graph, images: Array, region: Linf, spec: Spec
  ) -> Array:
    self.require_graph(graph)
    known = self.inner(graph, images, region)
    rows, offsets = _of_result(spec, graph, images, known)
    return self._walked(
        graph, known, region, images, rows, offsets, graph.outputs[0]
    )

  def results(
      self, graph: Graph, images: Array, region: Linf
  ) -> list[Bounds]:
    """Bounds of the input and of every result, (l, u), [B, ...] each.

    Of all but the last one they are those that lines are chosen by, and that of
    neurons whose bounds decide nothing. The last result's are the method's own, if
    it is not too large.
    """
    self.require_graph(graph)
    known = self.inner(graph, images, region, everywhere=True)
    bounds, number = list(known.bounds), len(graph.calls)
    shape, (low, high) = graph.shape(number), bounds[number]
    count = math.prod(shape)
    if number and count <= _MOST_OUTPUTS:
      each = jnp.eye(count, dtype=low.dtype)
      rows = jnp.concatenate((each, -each)).reshape((1, 2 * count) + shape)
      rows = jnp.broadcast_to(rows, low.shape[:1] + rows.shape[1:])
      offsets = jnp.zeros(rows.shape[:2], low.dtype)
      above = self._walked(
          graph, known, region, images, rows, offsets, number
      )
      up, down = (part.reshape(low.shape) for part in jnp.split(above, 2, 1))
      bounds[number] = jnp.fmax(low, -down), jnp.fmin(high, up)
    return bounds

  def require_graph(self, graph) -> None:
    """Raises UsageError if what it is given has no calls to walk."""
    if not isinstance(graph, Graph):
      raise UsageError(
          f"{self} walks a graph backwards, but the network is transformed by"
          f" JAX inside (nn.jit, nn.scan, ...) and has none; take another method"
      )

  def _walked(
      self, graph: Graph, known: Inner, region: Linf, images: Array,
      rows: Array, offsets: Array, number: int,
  ) -> Array:
    """The least of this method's bounds of rows of a result, [B, S]."""
    way = way_to(graph, known.steps, known.bounds)
    problem = region, images, rows, offsets, number
    found = upper_bounds(way, *problem)
    chosen = self.chosen(way, *problem)
    if chosen is None:
      return found
    return jnp.fmin(found, upper_bounds(way, *problem, chosen))


def _of_result(
    spec: Spec, graph: Graph, images: Array, known: Inner
) -> tuple[Array, Array]:
  """The spec's rows and offsets, [B, S, ...output] and [B, S]."""
  batch, dtype = images.shape[0], known.bounds[-1][0].dtype
  rows = jnp.asarray(spec.rows, dtype)
  rows = jnp.broadcast_to(rows, (batch,) + rows.shape[-2:])
  offsets = jnp.broadcast_to(
      jnp.asarray(spec.offsets, dtype), rows.shape[:2]
  )
  shape = graph.output_shape
  if rows.shape[-1] != math.prod(shape):
    raise ValueError(
        f"the spec is about {rows.shape[-1]} outputs; the network has"
        f" {list(shape)}"
    )
  return rows.reshape(rows.shape[:2] + shape), offsets


@dataclasses.dataclass(frozen=True)
class CROWN_IBP(Linear):  # pylint: disable=invalid-name
  """Intervals for inner neurons, one walk back for the spec's rows.

  Zhang et al. 2020, "Towards stable and efficient training of verifiably robust
  neural networks".
  """

  def inner(
      self, graph: Graph, images: Array, region: Linf, everywhere: bool = False
  ) -> Inner:
    del everywhere  # Intervals bound all of them.
    return inner_bounds(graph, region, images)

  def _walked(
      self, graph: Graph, known: Inner, region: Linf, images: Array,
      rows: Array, offsets: Array, number: int,
  ) -> Array:
    walked = super()._walked(
        graph, known, region, images, rows, offsets, number
    )
    way = way_to(graph, known.steps, known.bounds)
    return jnp.fmin(
        walked, over_box(way, known.bounds, rows, offsets, number)
    )


class _Refined(Linear):
  """Base of methods that bound inner neurons better than CROWN_IBP does."""

  def bound(
      self, graph: Graph, images: Array, region: Linf, spec: Spec
  ) -> Array:
    found = super().bound(graph, images, region, spec)
    # NaN, which bounds nothing, loses.
    return jnp.fmin(found, CROWN_IBP().bound(graph, images, region, spec))


@dataclasses.dataclass(frozen=True)
class CROWN(_Refined):
  """Every open inner neuron is bounded by a walk of its own.

  Zhang et al. 2018, "Efficient neural network robustness certification with
  general activation functions".

  Attributes:
    first: bounds neurons first: those that it leaves open are bounded again, and
      the better bound is kept. One of the methods that push elements.
  """

  first: Method = Box()

  def inner(
      self, graph: Graph, images: Array, region: Linf, everywhere: bool = False
  ) -> Inner:
    return inner_bounds(
        graph, region, images, refine=True, everywhere=everywhere,
        elements=_results(self.first, graph, images, region),
    )

  def check(self) -> None:
    _check_first(self.first)


@dataclasses.dataclass(frozen=True)
class AlphaCROWN(_Refined):
  """CROWN whose lines' slopes are chosen for each row of the spec.

  See `backward.alpha`. With inner steps, each inner neuron that CROWN leaves open
  has slopes of its own, too, as in Xu et al. 2021; then the bound is the better one
  of those with and without them.

  Attributes:
    steps: of gradient descent.
    first: as of `CROWN`.
    inner_steps: of gradient descent for each open inner neuron; 0 bounds them as
      `CROWN` does.
  """

  steps: int
  first: Method = Box()
  inner_steps: int = 0

  def inner(
      self, graph: Graph, images: Array, region: Linf, everywhere: bool = False
  ) -> Inner:
    return inner_bounds(
        graph, region, images, refine=True, everywhere=everywhere,
        elements=_results(self.first, graph, images, region),
        alpha_steps=self.inner_steps,
    )

  def chosen(self, way, *problem) -> dict:
    return chosen_slopes(way, *problem, self.steps)

  def bound(
      self, graph: Graph, images: Array, region: Linf, spec: Spec
  ) -> Array:
    found = super().bound(graph, images, region, spec)
    if not self.inner_steps:
      return found
    below = dataclasses.replace(self, inner_steps=0)
    return jnp.fmin(found, below.bound(graph, images, region, spec))

  def check(self) -> None:
    _check_steps("steps", self.steps, 1)
    _check_steps("inner_steps", self.inner_steps, 0)
    _check_first(self.first)


LINEAR = (CROWN_IBP, CROWN, AlphaCROWN)


def _check_steps(name: str, steps: int, least: int) -> None:
  if type(steps) is not int or not least <= steps <= _MOST_STEPS:
    raise ValueError(
        f"{name} is {shown(steps)}; expected a whole number from {least} to"
        f" {_MOST_STEPS}"
    )


def _check_first(first: Method) -> None:
  if not isinstance(first, Domain):
    raise ValueError(
        f"the method that bounds neurons first is {shown(str(first))}; expected"
        f" one that pushes an element through the network, such as Box or HBox"
    )


def _results(
    method: Method, graph: Graph, images: Array, region: Linf
) -> list | None:
  """All results of the graph on the method's element; None for intervals."""
  if isinstance(method, Box):
    return None
  return graph.results(method.element(images, region))
