"""Bounds of every result of a graph, which the lines of backward bounds need.

Interval bounds of each call come from its own sound transformer on a box of what
flows into it; elements of any domain may bound results, too; and of both the better
is kept. Then, result by result, neurons whose bounds matter and are open (a ReLU's
input that may have either sign) can be bounded again by a walk back to the input:
those alone, a chunk of them at a time, so that memory is that of a chunk. Those that
stay open may have slopes of their own (`alpha`), which another walk is taken with,
and the better bound is kept. Results that are one affine map of the input are exact by
intervals, in a region that is not cut, and are left out.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.backward.affine_step import AFFINE, IDENTITIES, MOVES
from diffai_jax.backward.alpha import descended
from diffai_jax.backward.relaxed_steps import Bounds
from diffai_jax.backward.walk import (
    Way,
    choices_under,
    prepared,
    walked_back,
    way_to,
)
from diffai_jax.backward.windows import one_hot
from diffai_jax.domains import HybridZonotope, from_bounds, lower, upper
from diffai_jax.graph import Call, Graph
from diffai_jax.kernels import platforms
from diffai_jax.regions import Cut
from diffai_jax.transformers import lines as table
from diffai_jax.types import Array

# How many arrays of a chunk's rows are alive at once in a walk, at most.
_ALIVE = 6
_MOST_CHUNK_MB = 256.0  # Beyond, a chunk gains nothing.
# Of the buffers that a platform gains from. The last chunk is mostly empty, so small
# ones waste less (CROWN on ConvSmall, 2 CPU cores: 105 ms an image with 32 MiB, 13.1
# with 2 MiB, 13.7 with 1).
_CHUNK_SHARE = 1 / 16


@dataclasses.dataclass(frozen=True)
class Inner:
  """What is known of a graph's results over a region.

  Attributes:
    bounds: of the input and of each result, (l, u), [B, ...] each.
    steps: of each call.
  """

  bounds: tuple[Bounds, ...]
  steps: tuple


def inner_bounds(
    graph: Graph,
    region,
    images: Array,
    *,
    elements: Sequence | None = None,
    known: Sequence[Bounds] | None = None,
    refine: bool = False,
    everywhere: bool = False,
    careful: bool = True,
    chunk_mb: float | None = None,
    alpha_steps: int = 0,
) -> Inner:
  """Bounds of all results, and the steps of all calls.

  Args:
    graph: the network.
    region: what inputs may be.
    images: [B, ...], that it is around.
    elements: results of the graph on an element that contains the region
      (`Graph.results`), whose bounds are met with those of intervals.
    known: bounds of the input and of every result that hold already, [B, ...] each.
    refine: whether open neurons are bounded again by walking back.
    everywhere: whether all neurons of every affine call are, too, and of what
      other calls use: bounds to look at, and no better lines.
    careful: whether rounding is allowed for; without, they serve losses alone.
    chunk_mb: what a chunk of rows may take, in MiB; None is what the platform
      gains from.

  Returns:
    Bounds that hold for every run of the network in the region.
  """
  # Once, and not again for each tap of a first convolution.
  bounds = [platforms.computed_once(region.bounds(images))]
  steps = []
  wanted = _relaxed_inputs(graph)
  for number, call in enumerate(graph.calls, start=1):
    given = [bounds[n] for n in call.inputs]
    found = _interval(call, given)
    if elements is not None:
      found = _both(found, _bounds_of(elements[number]))
    if known is not None:
      found = _both(found, known[number])
    shapes = [graph.shape(n) for n in call.inputs]
    steps.append(prepared(call, shapes, given, found, careful))
    bounds.append(platforms.computed_once(found))
    consumers = wanted.get(number, ())
    is_mixed = everywhere and call.transformer in AFFINE - MOVES
    is_exact = _is_affine(graph, number) and not isinstance(region, Cut)
    if refine and (consumers or is_mixed) and not is_exact:
      way = way_to(graph, steps, bounds, careful)
      for moves in (0, alpha_steps) if alpha_steps else (0,):
        is_open = jnp.full(found[0].shape, everywhere)
        for consumer in consumers:
          is_open |= _open(consumer, bounds[-1])
        bounds[-1] = _refined(
            way, region, images, number, bounds[-1], is_open, chunk_mb, moves
        )
  return Inner(tuple(bounds), tuple(steps))


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
  """Whether intervals of a result are exact: after one map that mixes variables.
  """
  maps = 0
  while number:
    call = graph.calls[number - 1]
    name = call.transformer
    alone = len(call.inputs) == 1
    if name in IDENTITIES or alone and name in MOVES | {"scale_shift"}:
      pass
    elif name in AFFINE and alone:
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
    is_open: Array, chunk_mb: float | None, moves: int,
) -> Bounds:
  """Bounds of a result, better where it is open.

  The open neurons of all examples stand in one list, and a chunk takes the next
  ones, whosever they are, with one row up and one down for each; a loop runs until
  none is left. Those of images begin as windows of one pixel.
  """
  low, high = bounds
  batch, shape = low.shape[0], low.shape[1:]
  count = math.prod(shape)

  def walk(way, places, chosen=None):
    """Upper bounds of some neurons and of their negatives, [R, 2]; and rows."""
    examples, neurons = places // count, places % count
    if len(shape) == 3:
      rows = one_hot(neurons, shape, low.dtype)
    else:
      rows = jax.nn.one_hot(neurons, count, dtype=low.dtype)
      rows = jnp.stack([rows, -rows], 1).reshape((-1, 2) + shape)
    return walked_back(
        way, region, images, rows, jnp.zeros((len(places), 2), low.dtype),
        number, chosen, examples,
    )

  def above(places):
    """The bounds [R, 2] with the lines that are taken, or better ones."""
    found, met = walk(way, places)
    if not moves:
      return found
    plain = way.plain()
    chosen = descended(
        lambda chosen: walk(plain, places, chosen)[0],
        choices_under(way, met, places // count), found, moves,
    )
    return jnp.fmin(found, walk(way, places, chosen)[0])

  largest = _largest(functools.partial(walk, way)) * (3 if moves else 1)
  size = _chunk_size(batch * count, largest, low.dtype, chunk_mb)
  low, high = low.reshape(-1), high.reshape(-1)
  # NaN bounds are open, and stay NaN where the walk gives nothing better.
  is_open = is_open.reshape(-1) | jnp.isnan(low) | jnp.isnan(high)
  order = jnp.argsort(~is_open, stable=True)
  order = jnp.pad(order, (0, -len(order) % size))
  total = jnp.sum(is_open)

  def chunk(state):
    begin, low, high = state
    places = lax.dynamic_slice_in_dim(order, begin, size)
    valid = begin + jnp.arange(size) < total
    found = above(places)
    # What fills up the last chunk, or has no bound, changes nothing.
    known = valid[:, None] & ~jnp.isnan(found)
    found = jnp.where(known, found, jnp.inf)
    return (
        begin + size, low.at[places].max(-found[:, 1]),
        high.at[places].min(found[:, 0]),
    )

  _, low, high = lax.while_loop(
      lambda state: state[0] < total, chunk,
      (jnp.zeros((), total.dtype), low, high),
  )
  return low.reshape((batch,) + shape), high.reshape((batch,) + shape)


def _largest(walk) -> int:
  """How many coefficients a neuron's row has at most, on its way."""
  place = jax.ShapeDtypeStruct((1,), jnp.int32)
  _, met = jax.eval_shape(walk, place)
  return max(leaf.size for leaf in jax.tree.leaves(met)) // 2


def _chunk_size(
    neurons: int, largest: int, dtype, chunk_mb: float | None
) -> int:
  """How many neurons a chunk has, for two rows each."""
  if chunk_mb is None:
    useful = platforms.here().useful_mib * _CHUNK_SHARE
    chunk_mb = min(_MOST_CHUNK_MB, useful)
  each = 2 * largest * jnp.dtype(dtype).itemsize * _ALIVE
  return max(1, min(int(chunk_mb * 2**20 / each), neurons))
