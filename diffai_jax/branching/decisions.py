"""Which neurons a subdomain has decided, and what is known of its runs.

A subdomain is not a set of points: it is a set of *runs* of the network, exact ones
and those in floating point, of points of the region. A run has one value x at each
result that flows into a ReLU, whatever it is computed with. The decision +1 keeps
the runs with x ≥ 0, -1 those with x ≤ 0. So every run is in one of the two children
at least, also near 0, where the exact run of a point and one in floats may be in
different ones; and what is proved of all leaves is proved of every run.

Bounds of the region hold for every run in it, so those of a child's runs are the
same, met with 0. Nothing else is recomputed.

Neurons are numbered through all of these results; a decision is (number + 1) times
its sign, and lists of them are filled up with 0.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp

from diffai_jax.backward import Way, prepared, way_to
from diffai_jax.backward.affine_step import AFFINE, IDENTITIES
from diffai_jax.graph import Graph
from diffai_jax.types import Array

Bounds = tuple[Array, Array]


@dataclasses.dataclass(frozen=True)
class Neurons:
  """What can be decided in a graph.

  Attributes:
    results: numbers of the results that flow into ReLUs.
    relus: of each, the number of the first ReLU's result.
    shapes: of one example of each.
  """

  results: tuple[int, ...]
  relus: tuple[int, ...]
  shapes: tuple[tuple[int, ...], ...]

  @property
  def count(self) -> int:
    return sum(map(math.prod, self.shapes))

  def flat(self, by_result: Mapping[int, Array] | Sequence[Array]) -> Array:
    """Arrays [..., *shape] of each result as one, [..., count]."""
    parts = []
    for number, shape in zip(self.results, self.shapes):
      array = by_result[number]
      lead = array.shape[: array.ndim - len(shape)]
      parts.append(array.reshape(lead + (-1,)))
    return jnp.concatenate(parts, axis=-1)

  def ends(self, bounds: Sequence[Bounds]) -> Bounds:
    """Bounds of each result as those of all neurons, (l, u), [..., count] each."""
    low, high = (
        self.flat({n: bounds[n][end] for n in self.results}) for end in (0, 1)
    )
    return low, high

  def apart(self, flat: Array) -> dict[int, Array]:
    """The inverse of `flat`, by the results' numbers."""
    found, begin = {}, 0
    for number, shape in zip(self.results, self.shapes):
      end = begin + math.prod(shape)
      found[number] = flat[..., begin:end].reshape(flat.shape[:-1] + shape)
      begin = end
    return found


def neurons_of(graph: Graph) -> Neurons:
  """What flows into the graph's ReLUs."""
  first = {}
  for number, call in enumerate(graph.calls, start=1):
    if call.transformer == "relu":
      first.setdefault(call.inputs[0], number)
  results = tuple(sorted(first))
  return Neurons(
      results, tuple(first[n] for n in results),
      tuple(tuple(graph.shape(n)) for n in results),
  )


def is_piecewise_linear(graph: Graph) -> bool:
  """Whether a graph is of affine maps and ReLUs alone."""
  known = AFFINE | IDENTITIES | {"relu"}
  return all(call.transformer in known for call in graph.calls)


def is_small(graph: Graph, few_relus: int) -> bool:
  """Whether a graph has few ReLUs, and nothing else to relax."""
  return neurons_of(graph).count <= few_relus and is_piecewise_linear(graph)


def run_with(
    graph: Graph, x: Array, relu: Callable[[int, Array], Array]
) -> list[Array]:
  """All results of a run [1, ...] with something else in the ReLUs' places.

  Args:
    graph: the network.
    x: its input.
    relu: called with the number of a result that flows into a ReLU, and its value.
  """
  results = [x]
  for call in graph.calls:
    given = [results[n] for n in call.inputs]
    if call.transformer == "relu":
      results.append(relu(call.inputs[0], *given))
    else:
      results.append(call(*given))
  return results


def places_of(decisions: Array, count: int) -> Array:
  """The neurons of decisions; `count`, which is none, of those that are 0."""
  return jnp.where(decisions == 0, count, jnp.abs(decisions) - 1)


def met(bounds: Bounds, signs: Array) -> Bounds:
  """Bounds of those runs that have these signs."""
  low, high = bounds
  return (
      jnp.where(signs > 0, jnp.maximum(low, 0), low),
      jnp.where(signs < 0, jnp.minimum(high, 0), high),
  )


def decided_way(
    graph: Graph, neurons: Neurons, bounds: Sequence[Bounds], careful: bool
) -> tuple[Way, Bounds]:
  """The way back through the graph of subdomains.

  Args:
    graph: the network.
    neurons: of it.
    bounds: of every result, [N, ...], those of neurons met with the decisions.
    careful: whether rounding is allowed for.

  Returns:
    (way, bounds of all neurons, [N, count] each).
  """
  bounds, steps = list(bounds), []
  for number, call in enumerate(graph.calls, start=1):
    given = [bounds[n] for n in call.inputs]
    if call.transformer == "relu":
      bounds[number] = tuple(map(jax.nn.relu, given[0]))
    shapes = [graph.shape(n) for n in call.inputs]
    steps.append(prepared(call, shapes, given, bounds[number], careful))
  return way_to(graph, steps, bounds, careful), neurons.ends(bounds)


def known_signs(low: Array, high: Array) -> Array:
  """The one sign that neurons have within bounds: 1, -1, or 0 where they have both."""
  return jnp.where(low >= 0, 1, jnp.where(high <= 0, -1, 0)).astype(low.dtype)


def chosen_at(
    neurons: Neurons, places: Array, ends: Bounds, alpha: Array, beta: Array
) -> dict[int, dict]:
  """What a walk chooses at the ReLUs: lower slopes, and s·β on what flows in.

  Args:
    neurons: of the graph.
    places: neurons that have a slope, [N, K]; `neurons.count` is none.
    ends: bounds of these, (l, u), [N, K].
    alpha: α in [0, 1] of these places, [N, S, K].
    beta: β ≥ 0 of those with one sign s, [N, S, K].
  """
  subdomains, rows = alpha.shape[:2]
  lead = (
      jnp.arange(subdomains)[:, None, None], jnp.arange(rows)[None, :, None]
  )
  none = jnp.zeros((subdomains, rows, neurons.count), alpha.dtype)
  at = lambda values: neurons.apart(
      none.at[*lead, places[:, None]].set(values, mode="drop")
  )
  slopes, signed = at(alpha), at(known_signs(*ends)[:, None] * beta)
  return {
      relu: {"lower": slopes[number], "beta": signed[number]}
      for number, relu in zip(neurons.results, neurons.relus)
  }
