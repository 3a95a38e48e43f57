"""Rounds on devices: one compiled program for all subdomains of a block of images.

It has one shape: fewer parents are filled up with the last of them, and every local
device has a copy of what is known of the images. Only deeper lists of decisions
compile it anew, which happens each time that they are twice as long.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import jax
import numpy as np

from diffai_jax.branching.bounding import Root, Round, Subdomains, one_round
from diffai_jax.branching.compiling import Compiling
from diffai_jax.graph import Graph
from diffai_jax.kernels import platforms, precision

# Arrays of a subdomain's results that are alive at once in a round.
_ALIVE = 16
# Parents a device: beyond, a CPU gains nothing, and half-empty rounds waste more.
_MOST_ON_CPU, _MOST = 64, 2048


class Rounds:
  """Runs rounds of one graph and one block of images.

  Attributes:
    size: how many parents a round takes.
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
    self._each = batch or useful_batch(graph)
    self.size = self._each * len(self._devices)
    self._run = compiling
    self._copies = _copied((graph, root), self._devices)

  def __call__(self, parents: Subdomains, steps: int) -> Round:
    """The round of at most `size` parents; `point` stays on the devices.

    Its arrays are NumPy's, but for the point's, which are [devices, ...].
    """
    count, lead = len(parents.image), (len(self._devices), self._each)
    which = np.arange(self.size).clip(max=count - 1)
    given = jax.tree.map(
        lambda leaf: leaf[which].reshape(lead + leaf.shape[1:]), parents
    )
    found = self._run(
        _pmapped(self._devices), *self._copies, given, np.int32(steps)
    )
    point = found.point
    found = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape((-1,) + leaf.shape[2:]),
        dataclasses.replace(found, point=None),
    )
    cut = lambda leaf: leaf[: 2 * count]
    return Round(
        found.neuron[:count], jax.tree.map(cut, found.children),
        cut(found.bound), cut(found.value), point,
    )


@functools.cache
def _pmapped(devices: tuple) -> Callable:
  def run(graph: Graph, root: Root, parents: Subdomains, steps) -> Round:
    with jax.default_matmul_precision("highest"), precision.for_losses(False):
      return one_round(graph, root, parents, steps)

  return jax.pmap(run, in_axes=(0, 0, 0, None), devices=devices)


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
