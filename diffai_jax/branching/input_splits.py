"""Branch and bound on the input's box, for networks of few inputs.

Halves of a box are bounded anew, inner neurons too, by CROWN's walks: that costs more
than a split of a neuron, and gains more where few variables decide everything. A box
is halved along the edge that is longest when weighted by the slope of its own linear
bound, at a number of the floating-point type, which both halves have in them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.backward import inner_bounds, walked_back, way_to
from diffai_jax.branching.box_points import best_points
from diffai_jax.branching.compiling import Stopwatch
from diffai_jax.branching.falsify import Falsifier
from diffai_jax.branching.ledger import Ledger
from diffai_jax.branching.narrowing import narrowed
from diffai_jax.branching.roots import of_groups
from diffai_jax.branching.rounds import useful_batch
from diffai_jax.branching.subdomains import Root
from diffai_jax.branching.table import Table
from diffai_jax.graph import Graph
from diffai_jax.kernels import precision
from diffai_jax.regions import Bounds
from diffai_jax.types import Array

_MORE = 4  # Boxes of a round, for each parent of a round of neurons.
# Edges without a slope are split, too: what is not linear in them may have none.
_LEAST, _SMALLEST = 0.03, 1e-6


class Boxes(Table):
  """Open boxes with their bounds, and how much each edge matters."""

  def __init__(self, variables: int, dtype, most_mib: float):
    numbers = np.zeros((0, variables), dtype)
    self._each = 3 * variables * numbers.itemsize + 8 + 2 * numbers.itemsize
    self._most = most_mib * 2**20
    super().__init__({
        "image": np.zeros(0, np.int32), "group": np.zeros(0, np.int32),
        "bound": np.zeros(0, dtype), "low": numbers, "high": numbers,
        "weight": numbers,
    })

  @property
  def capacity(self) -> int:
    """How many boxes fit into memory."""
    return max(1, int(self._most / self._each))


class InputSplits(Ledger):
  """A search under way; arguments are those of `search`."""

  def __init__(self, graph, images, region, spec, settings, progress):
    super().__init__(images, settings, progress)
    self._graph, count = graph, len(images)
    dtype, shape = images.dtype, tuple(graph.output_shape)
    table = of_groups(spec)
    rows = np.broadcast_to(
        np.asarray(spec.rows, dtype), (count,) + np.shape(spec.rows)[-2:]
    )
    offsets = np.broadcast_to(np.asarray(spec.offsets, dtype), rows.shape[:2])
    low, high = map(np.asarray, region.bounds(images))
    self._root = Root(
        images, Bounds(low, high), (), np.zeros((count, 1), np.int32),
        rows[:, table].reshape((count,) + table.shape + shape),
        offsets[:, table],
    )
    self._devices = jax.local_devices()
    self._key = jax.random.key(settings.seed)
    each = settings.batch or useful_batch(graph)
    self._size = _MORE * each * len(self._devices)
    self.falsifier = Falsifier(
        graph, self._root, settings.attack_steps, settings.restarts, 2 * each,
        settings.seed, self.compiling,
    )

  def begin(self) -> None:
    """Puts whole regions into the table, and attacks them."""
    low, high = (
        np.asarray(bound).reshape(len(self.images), -1)
        for bound in (self._root.region.lower, self._root.region.upper)
    )
    groups = self._root.rows.shape[1]
    image = np.repeat(np.arange(len(low)), groups)
    boxes = Boxes(low.shape[1], low.dtype, self.settings.pool_mib)
    boxes.append({
        "image": image, "group": np.tile(np.arange(groups), len(low)),
        "bound": np.full(len(image), np.inf), "low": low[image],
        "high": high[image], "weight": (high - low)[image],
    })
    self.table = boxes
    self.drop_decided()
    self.attack(np.unique(boxes.image))

  def round(self) -> None:
    """Bounds the most promising boxes, and halves those that are not proved."""
    watch, table = Stopwatch(self.compiling), self.table
    places = self.promising(self._size)
    self.begins(places)
    boxes = table.pop(places)
    while 4 * len(boxes["image"]) <= self._size and np.isfinite(
        boxes["bound"]
    ).all():
      boxes = _halved(boxes)  # So that rounds are full.
    found = self._bounded(boxes)
    kept = narrowed(
        boxes["low"], boxes["high"], found["slopes"], found["bounds"]
    )
    bound = np.where(np.isnan(kept.rest), np.inf, kept.rest)
    self.proves(boxes["image"], kept.bound)
    proved = bound < 0
    self.proves(boxes["image"][proved], bound[proved])
    boxes["bound"] = np.fmin(bound, boxes["bound"])
    boxes["low"], boxes["high"] = kept.low, kept.high
    slope = np.abs(found["slopes"]).max(axis=1)
    slope += _SMALLEST + _LEAST * slope.max(axis=1, keepdims=True)
    boxes["weight"] = slope * (kept.high - kept.low)
    left = {name: array[~proved] for name, array in boxes.items()}
    halves = _halved(left)
    table.append(halves)
    self.ends()
    self.falsifier.look_at(
        boxes["image"], boxes["group"], found["value"], found["point"]
    )
    # What is one point in floats, and is not proved, stays open.
    stuck = ~np.any(left["low"] < left["high"], axis=1)
    self.gives_up(left["image"][stuck], left["bound"][stuck])
    self.after(boxes["image"], 1, watch.seconds())

  def _bounded(self, boxes: dict) -> dict:
    """Bounds, weights, points and values of boxes, in batches of one shape."""
    count, devices = len(boxes["image"]), len(self._devices)
    which = np.arange(self._size).clip(max=count - 1)
    lead = (devices, self._size // devices)
    shape = self.images.shape[1:]
    cut = lambda a, *more: a[which].reshape(lead + (more or a.shape[1:]))
    root = self._root
    self._key, *keys = jax.random.split(self._key, 1 + devices)
    found = self.compiling(
        _pmapped(tuple(self._devices)), self._graph,
        cut(boxes["low"], *shape), cut(boxes["high"], *shape),
        cut(root.rows[boxes["image"], boxes["group"]]),
        cut(root.offsets[boxes["image"], boxes["group"]]),
        np.stack([jax.random.key_data(key) for key in keys]),
    )
    flat = lambda a: np.asarray(a).reshape((self._size,) + a.shape[2:])[:count]
    return {name: flat(array) for name, array in found.items()}


def _halved(boxes: dict) -> dict:
  """Both halves of each box, all first ones before all second ones."""
  rows = np.arange(len(boxes["image"]))
  low, high, weight = (boxes[k].copy() for k in ("low", "high", "weight"))
  # An edge that has no number inside cannot be halved.
  middle = low / 2 + high / 2
  middle = np.clip(middle, low, high)
  inside = (low < middle) & (middle < high)
  edge = np.where(inside, np.nan_to_num(weight), -1).argmax(axis=1)
  at, can = middle[rows, edge], inside[rows, edge]
  first, second = high.copy(), low.copy()
  first[rows, edge] = np.where(can, at, high[rows, edge])
  second[rows, edge] = np.where(can, at, low[rows, edge])
  weight[rows, edge] /= 2
  twice = {name: np.concatenate([a, a]) for name, a in boxes.items()}
  return twice | {
      "low": np.concatenate([low, second]),
      "high": np.concatenate([first, high]),
      "weight": np.concatenate([weight, weight]),
  }


@functools.cache
def _pmapped(devices: tuple):
  return jax.pmap(
      _bounds_of_boxes, in_axes=(None, 0, 0, 0, 0, 0), devices=devices
  )


def _bounds_of_boxes(
    graph: Graph, low: Array, high: Array, rows: Array, offsets: Array,
    key: Array,
) -> dict[str, Array]:
  """What is known of N boxes.

  Args:
    graph: the network.
    low, high: [N, ...].
    rows, offsets: of each one's group, [N, S, ...output] and [N, S].
    key: of randomness, as numbers.

  Returns:
    By name: `bounds` of each row, [N, S], and `slopes` of the linear functions that
    they are the largest values of, [N, S, n]; `point`, the best one that is found,
    [N, ...]; and the `value` there, min over the rows of C·z + d, [N].
  """
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    region, images = Bounds(low, high), low / 2 + high / 2
    known = inner_bounds(graph, region, images, refine=True)
    way = way_to(graph, known.steps, known.bounds)
    bound, met = walked_back(
        way, region, images, rows, offsets, graph.outputs[0]
    )
    best = jnp.argmin(bound, axis=1)
    slopes = jnp.zeros(bound.shape + (math.prod(graph.input_shape),), low.dtype)
    if 0 in met:
      slopes = met[0].reshape(slopes.shape)
    attained = jnp.take_along_axis(slopes, best[:, None, None], 1)[:, 0]
    flat = lambda a: a.reshape(attained.shape)
    corner = jnp.where(attained > 0, flat(high), flat(low)).reshape(low.shape)
    point, value = best_points(
        graph, low, high, rows, offsets, corner, jax.random.wrap_key_data(key)
    )
    return {"bounds": bound, "slopes": slopes, "point": point, "value": value}
