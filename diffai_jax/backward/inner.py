"""Bounds of every result of a graph, which the lines of backward bounds need.

Interval bounds of each call come from its own sound transformer on a box of what
flows into it; elements of any domain may bound results, too; and of both the better
is kept. Then, result by result, neurons whose bounds matter and are open (a ReLU's
input that may have either sign) can be bounded again by a walk back to the input:
those alone, a chunk of them at a time, so that memory is that of a chunk. Results
that are one affine map of the input are exact by intervals and are left out.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.backward.affine_step import AFFINE, IDENTITIES, MOVES
from diffai_jax.backward.relaxed_steps import Bounds
from diffai_jax.backward.walk import Way, prepared, upper_bounds, way_to
from diffai_jax.domains import HybridZonotope, from_bounds, lower, upper
from diffai_jax.graph import Call, Graph
from diffai_jax.kernels import platforms
from diffai_jax.transformers import lines as table
from diffai_jax.types import Array

# How many arrays of a chunk's rows are alive at once in a walk, at most.
_ALIVE = 6
# Beyond, a chunk gains nothing.
_MOST_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Inner:
  """What is known of a graph's results over a region.

  Attributes:
    bounds: of the input and of each result, (l, u), [B, ...] each.
    steps: of each call.
    careful: whether they allow for rounding.
  """

  bounds: tuple[Bounds, ...]
  steps: tuple
  careful: bool


def inner_bounds(
    graph: Graph,
    region,
    images: Array,
    *,
    elements: Sequence | None = None,
    refine: bool = False,
    careful: bool = True,
    chunk_mb: float | None = None,
) -> Inner:
  """Bounds of all results, and the steps of all calls.

  Args:
    graph: the network.
    region: what inputs may be.
    images: [B, ...], that it is around.
    elements: results of the graph on an element that contains the region
      (`Graph.results`), whose bounds are met with those of intervals.
    refine: whether open neurons are bounded again by walking back.
    careful: whether rounding is allowed for; without, they serve losses alone.
    chunk_mb: what a chunk of rows may take, in MiB; None is what the platform
      gains from.

  Returns:
    Bounds that hold for every run of the network in the region.
  """
  bounds = [region.bounds(images)]
  steps = []
  wanted = _relaxed_inputs(graph)
  for number, call in enumerate(graph.calls, start=1):
    given = [bounds[n] for n in call.inputs]
    found = _interval(call, given)
    if elements is not None:
      found = _both(found, _bounds_of(elements[number]))
    shapes = [graph.shape(n) for n in call.inputs]
    steps.append(prepared(call, shapes, given, found, careful))
    bounds.append(found)
    consumers = wanted.get(number, ())
    if refine and consumers and not _is_affine(graph, number):
      is_open = jnp.zeros(found[0].shape, bool)
      for consumer in consumers:
        is_open |= _open(consumer, found)
      way = way_to(graph, steps, bounds, careful)
      bounds[-1] = _refined(
          way, region, images, number, found, is_open, chunk_mb,
          max(math.prod(graph.shape(n)) for n in range(number + 1)),
      )
  return Inner(tuple(bounds), tuple(steps), careful)


def _interval(call: Call, given: Sequence[Bounds]) -> Bounds:
  """A call's bounds from boxes of its inputs."""
  if call.transformer in IDENTITIES:
    return given[0]
  if call.transformer == "relu":
    return tuple(jax.nn.relu(bound) for bound in given[0])
  if call.transformer in MOVES:
    return call(*(l for l, _ in given)), call(*(u for _, u in given))
  return _bounds_of(call(*(from_bounds(*pair) for pair in given)))


def _bounds_of(value) -> Bounds:
  if isinstance(value, HybridZonotope):
    return lower(value), upper(value)
  return value, value


def _both(first: Bounds, second: Bounds) -> Bounds:
  """The better of two sound pairs of bounds; NaN, which bounds nothing, loses."""
  return jnp.fmax(first[0], second[0]), jnp.fmin(first[1], second[1])


def _relaxed_inputs(graph: Graph) -> dict[int, list[Call]]:
  """The calls that are not affine, by the numbers of what flows into them."""
  found = {}
  for call in graph.calls:
    if call.transformer not in AFFINE | IDENTITIES:
      for number in call.inputs:
        found.setdefault(number, []).append(call)
  return found


def _is_affine(graph: Graph, number: int) -> bool:
  """Whether a result is the input after at most one map that rounds."""
  maps = 0
  while number:
    call = graph.calls[number - 1]
    name = call.transformer
    if name in IDENTITIES or name in MOVES and len(call.inputs) == 1:
      pass
    elif name in AFFINE and len(call.inputs) == 1:
      maps += 1
    else:
      return False
    number = call.inputs[0]
  return maps <= 1


def _open(call: Call, bounds: Bounds) -> Array:
  """Neurons whose bounds matter to a call."""
  if call.transformer in table.LINED:
    return table.is_open(
        call.transformer, call.arrays, dict(call.options), *bounds
    )
  return bounds[0] < bounds[1]


def _refined(
    way: Way, region, images: Array, number: int, bounds: Bounds,
    is_open: Array, chunk_mb: float | None, largest: int,
) -> Bounds:
  """Bounds of a result, better where it is open.

  Each example has its open neurons in front, as many of them at a time as a
  chunk has rows; a loop runs until no example has any left.
  """
  low, high = bounds
  batch, shape = low.shape[0], low.shape[1:]
  count = math.prod(shape)
  size = _chunk_rows(batch, count, largest, low.dtype, chunk_mb)
  low, high = low.reshape(batch, count), high.reshape(batch, count)
  # NaN bounds are open, and stay NaN where the walk gives nothing better.
  is_open = (is_open | jnp.isnan(bounds[0]) | jnp.isnan(bounds[1])).reshape(
      batch, count
  )
  order = jnp.argsort(~is_open, axis=1, stable=True)
  order = jnp.pad(order, ((0, 0), (0, -count % size)))
  counts = jnp.sum(is_open, axis=1)
  examples = jnp.arange(batch)[:, None]
  rows_of = jnp.arange(size)

  def chunk(state):
    begin, low, high = state
    places = lax.dynamic_slice_in_dim(order, begin, size, 1)
    valid = (begin + rows_of) < counts[:, None]
    one_hot = jnp.zeros((batch, size, count), low.dtype)
    one_hot = one_hot.at[examples, rows_of, places].set(1)
    rows = jnp.concatenate([one_hot, -one_hot], 1)
    rows = rows.reshape((batch, 2 * size) + shape)
    offsets = jnp.zeros((batch, 2 * size), low.dtype)
    above = upper_bounds(way, region, images, rows, offsets, number)
    highest, lowest = above[:, :size], -above[:, size:]
    # What is no row of this chunk, or has no bound, changes nothing.
    highest = jnp.where(valid, highest, jnp.inf)
    lowest = jnp.where(valid, lowest, -jnp.inf)
    # A place that fills up a chunk may be one that another row has: of the two
    # neither may undo the other, so the extremes are scattered.
    low = low.at[examples, places].max(jnp.nan_to_num(
        lowest, nan=-jnp.inf, posinf=jnp.inf, neginf=-jnp.inf))
    high = high.at[examples, places].min(jnp.nan_to_num(
        highest, nan=jnp.inf, posinf=jnp.inf, neginf=-jnp.inf))
    return begin + size, low, high

  _, low, high = lax.while_loop(
      lambda state: state[0] < jnp.max(counts), chunk,
      (jnp.zeros((), counts.dtype), low, high),
  )
  return low.reshape((batch,) + shape), high.reshape((batch,) + shape)


def _chunk_rows(
    batch: int, count: int, largest: int, dtype, chunk_mb: float | None
) -> int:
  """How many neurons an example a chunk has, for two rows each."""
  if chunk_mb is None:
    chunk_mb = min(256.0, 2 * platforms.useful_memory_mb())
  each = 2 * batch * largest * jnp.dtype(dtype).itemsize * _ALIVE
  rows = int(chunk_mb * 2**20 / each)
  return max(1, min(rows, count, _MOST_ROWS))
