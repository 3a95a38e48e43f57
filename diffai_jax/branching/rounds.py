"""Rounds on devices: one compiled program for all subdomains of a block of images.

It has one shape: fewer parents are filled up with others, and every local
device has a copy of what is known of the images. Only deeper lists of decisions
compile it anew, which happens each time that they are twice as long.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.branching.bounding import Round, one_round
from diffai_jax.branching.compiling import Compiling
from diffai_jax.branching.cuts import cut_once
from diffai_jax.branching.decisions import neurons_of
from diffai_jax.branching.reduced import Reduced, can_reduce, reduced
from diffai_jax.branching.subdomains import Root, Subdomains, own_of
from diffai_jax.graph import Graph
from diffai_jax.kernels import platforms, precision

# Arrays of a subdomain's results that are alive at once in a round.
_ALIVE = 16
# Images of a round on an accelerator, at most, and parents on a CPU, where more
# maps than one image's come from memory more slowly than they are multiplied.
_SLOTS, _FEW, _KEPT = 8, 32, 32  # And images whose maps are kept.
# Parents a device: beyond, a CPU gains nothing, and half-empty rounds waste more.
_MOST_ON_CPU, _MOST = 64, 2048
_SMALLER = 8  # What is cut at once are so many times fewer.
_ENOUGH = 0.1  # A cut that gains less, of the bound, is the last one in a row.


class Rounds:
  """Runs rounds of one graph and one block of images.

  A round has slots, each with place for some subdomains of one image: where the
  network is reduced (`reduced`), the maps of that image are the slot's.

  Attributes:
    slots: how many.
    cut_size: subdomains that are cut at once, at most.
    each: how many parents a slot takes.
  """

  def __init__(
      self, graph: Graph, root: Root, batch: int | None, compiling: Compiling
  ):
    """
    Args:
      graph, root: as of `one_round`.
      batch: parents a device; None is `useful_batch`.
      compiling: which runs the program.
    """
    self._devices = tuple(jax.local_devices())
    rows = root.rows.shape[1] * root.rows.shape[2]
    self._reduces = can_reduce(graph, root.places.shape[1], rows)
    few = self._reduces and platforms.here() is platforms.CPU
    if batch is None:
      batch = _FEW if few else useful_batch(graph)
    slots = batch
    if self._reduces:
      slots = 1 if few else min(_SLOTS, batch)
    self.each = max(1, batch // slots)
    self.cut_size = max(1, useful_batch(graph) // _SMALLER) * len(self._devices)
    self.slots = slots * len(self._devices)
    self._graph, self._root, self._run = graph, root, compiling
    self._copies = _copied((graph, root), self._devices)
    self._maps, self._last = {}, ((), None)

  def __call__(
      self, parents: Subdomains, positions: np.ndarray, steps: int
  ) -> Round:
    """The round of some parents; `point` stays on the devices.

    Its arrays are NumPy's, but for the point's, which are [devices, ...] and of
    all places of the slots.

    Args:
      parents: the subdomains.
      positions: their places, slot · each + place; those of a slot are of one
        image, and begin with its first place.
      steps: of α and β.
    """
    which = np.full(self.slots * self.each, -1)
    which[positions] = np.arange(len(positions))
    by_slot = which.reshape(self.slots, self.each)
    # Empty slots are filled up with the first one, others with their own first.
    first = np.where(by_slot[:, :1] >= 0, by_slot[:, :1], by_slot[:1, :1])
    which = np.where(by_slot >= 0, by_slot, first).reshape(-1)
    lead = (len(self._devices), -1)
    given = jax.tree.map(
        lambda leaf: leaf[which].reshape(lead + leaf.shape[1:]), parents
    )
    maps = None
    if self._reduces:
      maps = self._maps_of(tuple(parents.image[first[:, 0]].tolist()))
    found = self._run(
        _pmapped(self._devices), *self._copies, given, np.int32(steps), maps
    )
    point = found.point
    found = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape((-1,) + leaf.shape[2:]),
        dataclasses.replace(found, point=None),
    )
    both = np.stack([2 * positions, 2 * positions + 1], axis=1).reshape(-1)
    cut = lambda leaf: leaf[both]
    return Round(
        found.neuron[positions], jax.tree.map(cut, found.children),
        cut(found.bound), cut(found.value), point,
    )

  def cut(
      self, some: Subdomains, steps: int, times: int
  ) -> tuple[Subdomains, np.ndarray, int]:
    """Cuts some subdomains, again while that gains much; see `cuts`.

    Args:
      some: N ≤ `cut_size` of them.
      steps: of α and β after each cut.
      times: how often, at most.

    Returns:
      (the subdomains; their bounds, [N]; how often they were cut).
    """
    count, lead = len(some.image), (len(self._devices), -1)
    which = np.arange(self.cut_size).clip(max=count - 1)
    some = jax.tree.map(
        lambda leaf: leaf[which].reshape(lead + leaf.shape[1:]), some
    )
    known = self._run(_gathered(self._devices), *self._copies, some)
    before = np.full(count, np.inf)
    for done in range(1, times + 1):
      some, bound, known = self._run(
          _cutting(self._devices), *self._copies, some, known, np.int32(steps)
      )
      bound = np.asarray(bound).reshape(-1)[:count]
      with np.errstate(invalid="ignore"):
        gains = (bound >= 0) & ~(before - bound <= _ENOUGH * bound)
      before = bound
      if not gains.any():
        break
    return jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape((-1,) + leaf.shape[2:])[:count],
        some,
    ), before, done

  def places_in_slots(
      self, order: np.ndarray, image: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Who goes into a round, and where.

    Args:
      order: numbers of subdomains, the most promising first, those of an image
        one behind the other.
      image: of each of these.

    Returns:
      (the first ones of `order`, as many as there is place for, and their
      positions).
    """
    begins = np.flatnonzero(np.diff(image, prepend=-1))
    counts = np.diff(begins, append=len(image))
    rank = np.arange(len(image)) - np.repeat(begins, counts)
    slots = -(-counts // self.each)
    before = np.cumsum(slots) - slots
    position = np.repeat(before, counts) * self.each + rank
    taken = position < self.slots * self.each
    return order[taken], position[taken]

  def _maps_of(self, images: tuple[int, ...]) -> Reduced:
    """The maps of some images, [devices, slots of a device, ...]."""
    if self._last[0] == images:
      return self._last[1]
    found = []
    for image in images:
      if image not in self._maps:
        if len(self._maps) >= max(_KEPT, self.slots):
          del self._maps[next(iter(self._maps))]
        root, output = self._root, self._graph.output_shape
        some = jax.tree.map(lambda leaf: leaf[image], root.bounds)
        self._maps[image] = self._run(
            reduced, self._graph, root.images[image], some,
            root.places[image], root.rows[image].reshape((-1,) + output),
            root.offsets[image].reshape(-1),
        )
      found.append(self._maps[image])
    lead = (len(self._devices), -1)
    maps = jax.tree.map(
        lambda *leaves: jnp.stack(leaves).reshape(lead + leaves[0].shape),
        *found,
    )
    self._last = images, jax.pmap(lambda same: same, devices=self._devices)(maps)
    return self._last[1]


@functools.cache
def _pmapped(devices: tuple) -> Callable:
  def run(graph: Graph, root: Root, parents: Subdomains, steps, maps) -> Round:
    with jax.default_matmul_precision("highest"), precision.for_losses(False):
      return one_round(graph, root, parents, steps, maps)

  return jax.pmap(run, in_axes=(0, 0, 0, None, 0), devices=devices)


@functools.cache
def _gathered(devices: tuple) -> Callable:
  def run(graph: Graph, root: Root, some: Subdomains):
    return own_of(neurons_of(graph), root, some).bounds

  return jax.pmap(run, devices=devices)


@functools.cache
def _cutting(devices: tuple) -> Callable:
  def run(graph: Graph, root: Root, some: Subdomains, known, steps):
    with jax.default_matmul_precision("highest"), precision.for_losses(False):
      return cut_once(graph, root, some, known, steps)

  return jax.pmap(run, in_axes=(0, 0, 0, 0, None), devices=devices)


def _copied(value, devices: tuple):
  """A pytree with a copy of each array on every device."""
  copies = jax.tree.map(
      lambda leaf: np.broadcast_to(
          np.asarray(leaf), (len(devices),) + np.shape(leaf)
      ), value,
  )
  return jax.pmap(lambda same: same, devices=devices)(copies)


def useful_batch(graph: Graph) -> int:
  """Parents a device that a round gains from."""
  here = platforms.here()
  numbers = sum(math.prod(call.shape) for call in graph.calls)
  each = (numbers + math.prod(graph.input_shape)) * _ALIVE
  useful = min(here.useful_mib, 2048.0) * 2**20
  size = useful / (each * np.dtype(graph.dtype).itemsize)
  most = _MOST_ON_CPU if here is platforms.CPU else _MOST
  return 2 ** int(np.clip(math.log2(max(size, 1)), 2, math.log2(most)))
