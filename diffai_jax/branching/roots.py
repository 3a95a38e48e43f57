"""What branch and bound begins with: each image's inner bounds and slopes.

CROWN's bounds of inner neurons, which all subdomains share, and α-CROWN's bounds of
the spec's rows. Arrays of all images of a block are kept on each device, those of
open neurons in lists of one length.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.backward import (
    chosen_slopes,
    inner_bounds,
    upper_bounds,
    way_to,
)
from diffai_jax.branching.compiling import Compiling
from diffai_jax.branching.decisions import Neurons, neurons_of
from diffai_jax.branching.subdomains import Root
from diffai_jax.graph import Graph
from diffai_jax.kernels import precision
from diffai_jax.regions import Spec, of_examples
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Start:
  """What is known of I images before anything is split.

  Attributes:
    root: of them.
    bound: of each row in its group's place, [I, G, S].
    alpha: slopes of each, [I, G, S, K], float16.
    slack: what rounding added to the bounds, [I, G, S].
    low, high: bounds of the places' neurons, [I, K].
  """

  root: Root
  bound: np.ndarray
  alpha: np.ndarray
  slack: np.ndarray
  low: np.ndarray
  high: np.ndarray


def of_groups(spec: Spec) -> np.ndarray:
  """The rows of each group, [G, S]; the first one again where there are less."""
  groups = np.asarray(spec.check())
  members = [np.flatnonzero(groups == g) for g in range(groups.max() + 1)]
  longest = max(map(len, members))
  return np.array([
      np.concatenate([m, np.repeat(m[:1], longest - len(m))]) for m in members
  ])


def start(
    graph: Graph, images: Array, region, spec: Spec, steps: int, size: int,
    compiling: Compiling,
) -> Start:
  """Bounds images, `size` of them at a time.

  Args:
    graph: the network.
    images: [I, ...].
    region: around them.
    spec: its rows are [S, ...] or [I, S, ...].
    steps: of α.
    size: of a batch; the last one is filled up.
    compiling: which runs the program.
  """
  count, shape = len(images), graph.output_shape
  dtype = np.dtype(graph.dtype)
  rows = np.asarray(spec.rows, dtype)
  rows = np.broadcast_to(rows, (count,) + rows.shape[-2:])
  offsets = np.broadcast_to(np.asarray(spec.offsets, dtype), rows.shape[:2])
  rows = rows.reshape(rows.shape[:2] + tuple(shape))
  pieces = []
  for begin in range(0, count, size):
    which = np.arange(begin, begin + size).clip(max=count - 1)
    around, some = of_examples(region, images, which)
    found = compiling(
        _bounded, graph, around, some, rows[which], offsets[which], steps=steps
    )
    kept = min(size, count - begin)
    pieces.append(jax.tree.map(lambda a: np.asarray(a)[:kept], found))
  bounds, bound, slack, alpha = jax.tree.map(
      lambda *parts: np.concatenate(parts), *pieces
  )
  neurons = neurons_of(graph)
  places, blocks = open_places(neurons, bounds)
  table = of_groups(spec)
  picked = np.minimum(places, max(0, neurons.count - 1))
  alpha = np.take_along_axis(alpha, picked[:, None], 2)
  region, images = of_examples(region, images, np.arange(count))
  root = Root(
      images, region, bounds, places, rows[:, table], offsets[:, table], blocks
  )
  low, high = np.zeros((2,) + places.shape, dtype)
  if neurons.count:
    low, high = (
        np.where(places < neurons.count, np.take_along_axis(end, picked, 1), 0)
        for end in map(np.asarray, neurons.ends(bounds))
    )
  return Start(
      root, bound[:, table], alpha[:, table], slack[:, table], low, high
  )


def open_places(
    neurons: Neurons, bounds: Sequence
) -> tuple[np.ndarray, tuple[int, ...]]:
  """The neurons of each image that have either sign, and how many of each result.

  Of each result that flows into a ReLU they are a power of two or the middle between
  two, so that programs for other images of the network are the same.

  Returns:
    ([I, K], K apart by the results). Where an image has fewer open neurons of a
    result, the number of all neurons.
  """
  found, first = [], 0
  for number, shape in zip(neurons.results, neurons.shapes):
    low, high = (
        np.asarray(bound).reshape(len(bound), -1) for bound in bounds[number]
    )
    size = math.prod(shape)
    is_open = ~((low >= 0) | (high <= 0))
    most = int(is_open.sum(axis=1).max(initial=0))
    places = np.full(
        (len(low), min(_rounded(most), size)), neurons.count, np.int32
    )
    for row, own in zip(places, is_open):
      own = np.flatnonzero(own)
      row[: len(own)] = first + own
    found.append(places)
    first += size
  if not found:
    return np.zeros((len(bounds[0][0]), 1), np.int32), ()
  return np.concatenate(found, axis=1), tuple(p.shape[1] for p in found)


def _rounded(most: int) -> int:
  """The next one of 8, 12, 16, 24, 32, ..."""
  size = 8
  while size < most:
    size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size


@functools.partial(jax.jit, static_argnames="steps")
def _bounded(graph, region, images, rows, offsets, steps):
  """Bounds of all results, of the rows, what rounding adds, and slopes."""
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    neurons = neurons_of(graph)
    known = inner_bounds(graph, region, images, refine=True)
    way = way_to(graph, known.steps, known.bounds)
    problem = region, images, rows, offsets, graph.outputs[0]
    chosen = {}
    if steps:
      chosen = chosen_slopes(way, *problem, steps)
    alpha = {}
    for number, relu in zip(neurons.results, neurons.relus):
      share = chosen.get(relu) or way.steps[relu - 1].choices()
      share = jnp.broadcast_to(
          share["lower"], rows.shape[:2] + share["lower"].shape[2:]
      )
      alpha[number] = share.astype(jnp.float16)
      chosen[relu] = {"lower": alpha[number].astype(offsets.dtype)}
    bound = upper_bounds(way, *problem, chosen)
    slack = bound - upper_bounds(way.plain(), *problem, chosen)
    flat = jnp.zeros(rows.shape[:2] + (1,), jnp.float16)  # As of `open_places`.
    if alpha:
      flat = neurons.flat(alpha)
    return known.bounds, bound, jnp.maximum(slack, 0), flat
