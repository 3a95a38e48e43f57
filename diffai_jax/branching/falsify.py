"""Points that break the spec: looked for by gradients, believed after two checks.

A group is broken at a point where every row has C·z + d ≥ 0. The attack moves along
signs of gradients, as PGD does (Madry et al. 2018), upwards in the least of its
rows, from a given point or a random one. Where linear programs over signs of ReLUs
are small, they go on from the best of these points. What is found counts only if the
network breaks the group strictly in its own type *and* in float64.
"""

import collections
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.branching.compiling import Compiling
from diffai_jax.branching.decided_points import (
    best_nearby,
    decided_point,
    in_dtype,
)
from diffai_jax.branching.decisions import is_piecewise_linear, neurons_of
from diffai_jax.branching.subdomains import Root
from diffai_jax.graph import Graph
from diffai_jax.kernels import precision
from diffai_jax.regions import L2, of_examples
from diffai_jax.types import Array, PRNGKey

_MOMENTUM, _LAST = 0.75, 0.01  # The last step, as a share of the region's radius.
# A linear program of so many numbers takes milliseconds; so many points of an image
# are starts of a walk of programs.
_SMALL, _WALKS = 4096, 8


class Falsifier:
  """Looks for points that break groups, and remembers the best.

  Attributes:
    points: that break some group of an image, by its number.
  """

  def __init__(
      self, graph: Graph, root: Root, steps: int, restarts: int, size: int,
      seed: int, compiling: Compiling,
  ):
    """
    Args:
      graph, root: of the images.
      steps: of an attack.
      restarts: starts of each group, the best point so far and random ones; more
        where a program has place for them.
      size: how many starts are attacked at once.
      seed: of random starts.
      compiling: which runs the attack.
    """
    self.points: dict[int, np.ndarray] = {}
    self._graph, self._root, self._steps = graph, root, steps
    self._restarts, self._size = restarts, size
    self._key, self._run = jax.random.key(seed), compiling
    self._best: dict[int, tuple[float, np.ndarray]] = {}
    neurons = neurons_of(graph).count
    self._is_linear = (
        neurons > 0 and is_piecewise_linear(graph)
        and not isinstance(root.region, L2)
    )
    programs = neurons * math.prod(graph.input_shape)
    self._is_small = self._is_linear and programs <= _SMALL

  def look_at(self, image, group, value, point, where=None) -> None:
    """Takes points that bounds suggest.

    Args:
      image, group: which ones, [N].
      value: min over the group's rows there, [N].
      point: an array of JAX that has the points, [..., M, ...].
      where: which of the M they are, [N]; None is the first N.
    """
    value = np.where(np.isnan(value), -np.inf, value)
    order = np.argsort(-value)
    _, first = np.unique(image[order], return_index=True)
    better = [
        place for place in order[first]
        if value[place] > self._best.get(int(image[place]), (-np.inf,))[0]
    ]
    if not better:
      return
    points = np.asarray(point).reshape((-1,) + self._root.images.shape[1:])
    for place in better:
      own = points[place if where is None else where[place]].copy()
      number = int(image[place])
      self._best[number] = float(value[place]), own
      if value[place] > 0:
        self._check(number, int(group[place]), own)

  def attack(self, pairs: np.ndarray) -> None:
    """Attacks some groups, (image, group) [P, 2]."""
    restarts = max(self._restarts, self._size // max(1, len(pairs)))
    pairs = np.repeat(pairs, restarts, axis=0)
    random = np.arange(len(pairs)) % restarts > 0
    images, ends = np.asarray(self._root.images), []
    for begin in range(0, len(pairs) if self._steps else 0, self._size):
      which = np.arange(begin, begin + self._size).clip(max=len(pairs) - 1)
      image, group = pairs[which].T
      starts = np.stack([
          self._best.get(int(i), (0, images[i]))[1] for i in image
      ])
      self._key, key = jax.random.split(self._key)
      points, values = jax.tree.map(np.asarray, self._run(
          attack, self._graph, self._root, image, group, starts,
          random[which], key, steps=self._steps,
      ))
      for place in np.argsort(-values):
        if values[place] > 0 and int(image[place]) not in self.points:
          self._check(int(image[place]), int(group[place]), points[place])
      if self._is_small:
        ends += zip(values.tolist(), image.tolist(), group.tolist(), points)
    self._walk(sorted(ends, key=lambda end: -end[0]))

  def _walk(self, ends: list[tuple[float, int, int, np.ndarray]]) -> None:
    """Goes on by linear programs from an attack's ends, the best ones first."""
    walks = collections.Counter()
    for _, image, group, point in ends:
      if walks[image] < _WALKS and image not in self.points:
        walks[image] += 1
        found = best_nearby(
            self._graph, *self._box(image), point,
            *self._group(image, group), self._run,
        )
        self._check(image, group, found)

  def solve(
      self, image: np.ndarray, group: np.ndarray, decisions: np.ndarray
  ) -> None:
    """Looks into subdomains with nothing left to split, where that is an LP.

    Args:
      image, group, decisions: of these, [N], [N] and [N, D].
    """
    if not self._is_linear:
      return
    for i, g, own in zip(image.tolist(), group.tolist(), decisions):
      if i in self.points:
        continue
      point = decided_point(
          self._graph, *self._box(i), own, *self._group(i, g)
      )
      if point is not None:
        self._check(i, g, point)

  def _box(self, image: int) -> tuple[np.ndarray, np.ndarray]:
    region, images = of_examples(
        self._root.region, self._root.images, np.array([image])
    )
    return tuple(np.asarray(end)[0] for end in region.bounds(images))

  def _group(self, image: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    root = self._root
    return np.asarray(root.rows[image, group]), np.asarray(
        root.offsets[image, group]
    )

  def _check(self, image: int, group: int, point: np.ndarray) -> None:
    if is_broken(self._graph, point, *self._group(image, group)):
      self.points.setdefault(image, point)


@functools.partial(jax.jit, static_argnames="steps")
def attack(
    graph: Graph, root: Root, image: Array, group: Array, starts: Array,
    random: Array, key: PRNGKey, steps: int,
) -> tuple[Array, Array]:
  """The best point of each walk, [N, ...], and min over the rows there, [N].

  Args:
    graph: the network.
    root: of the images.
    image, group: what is attacked, [N].
    starts: points, [N, ...].
    random: whether to start at a random point instead, [N].
    key: of randomness.
    steps: how many.
  """
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    region, images = of_examples(root.region, root.images, image)
    rows, offsets = root.rows[image, group], root.offsets[image, group]
    drawn = region.sample(jax.random.split(key, len(image)), images)
    wide = lambda of: of.reshape((-1,) + (1,) * (images.ndim - 1))
    point = region.project(jnp.where(wide(random), drawn, starts), images)

    def least(x):
      axes = tuple(range(2, rows.ndim))
      values = jnp.sum(rows * graph(x)[:, None], axes) + offsets
      return values.min(axis=1)

    def step(state, number):
      x, moved, best, highest = state
      gradient, values = jax.grad(
          lambda x: (least(x).sum(), least(x)), has_aux=True
      )(x)
      best = jnp.where(wide(values > highest), x, best)
      highest = jnp.maximum(values, highest)
      size = jnp.max(jnp.abs(gradient), tuple(range(1, x.ndim)), keepdims=True)
      moved = _MOMENTUM * moved + gradient / jnp.where(size > 0, size, 1)
      share = jnp.maximum(_LAST, 1 - number / (0.8 * steps))
      x = region.project(x + share * region.steepest(moved), images)
      return (x, moved, best, highest), None

    low = jnp.full(point.shape[:1], -jnp.inf, point.dtype)
    state = point, jnp.zeros_like(point), point, low
    (point, _, best, highest), _ = lax.scan(step, state, jnp.arange(steps))
    values = least(point)
    best = jnp.where(wide(values > highest), point, best)
    return best, jnp.maximum(values, highest)


def is_broken(
    graph: Graph, point: np.ndarray, rows: np.ndarray, offsets: np.ndarray
) -> bool:
  """Whether the network breaks a group at a point, in its type and in float64.

  Args:
    graph: the network.
    point: [...], one.
    rows, offsets: of the group, [S, ...output] and [S].
  """
  rows = np.asarray(rows, float).reshape(len(rows), -1)

  def values(dtype):
    output = _output(in_dtype(graph, dtype), np.asarray(point, dtype)[None])
    output = np.asarray(output, float).reshape(-1)
    return rows @ output + np.asarray(offsets, float)

  found = [values(np.dtype(graph.dtype))]
  with jax.enable_x64(True):
    found.append(values(np.dtype(float)))
  return all(bool(np.all(value > 0)) for value in found)


@jax.jit
def _output(graph: Graph, points: Array) -> Array:
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    return graph(points)
