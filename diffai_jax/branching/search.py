"""Branch and bound on the signs of ReLUs, on all open images at once.

One pool holds the open subdomains of all images and of all groups of the spec. Each
round takes as many as the devices have place for, those of images that have the
fewest left first, and of an image those with the worst bound; splits them, and
keeps the children that are not proved. An image is verified when none of its
subdomains is left. It is falsified by a point, and given up when it has had its
seconds: the time of a round is shared among the images that had subdomains in it.
"""

from collections.abc import Callable

import jax
import numpy as np

from diffai_jax.branching.bounding import Round, Subdomains
from diffai_jax.branching.compiling import Compiling, Stopwatch
from diffai_jax.branching.falsify import Falsifier
from diffai_jax.branching.pool import Pool
from diffai_jax.branching.roots import start
from diffai_jax.branching.rounds import Rounds, useful_batch
from diffai_jax.branching.settings import Found, Settings, State
from diffai_jax.graph import Graph
from diffai_jax.regions import Spec
from diffai_jax.types import Array

# A bound that moves by less, of its own size, stands still.
_STILL = 1e-4
# How many times as many steps are for what cannot be split.
_PATIENCE = 25
# Starts that are attacked at once, for each parent of a round.
_STARTS = 2


def search(
    graph: Graph, images: Array, region, spec: Spec, settings: Settings,
    progress: Callable[[State], None] = lambda state: None,
    leaves: Callable | None = None,
    decided: Callable[[np.ndarray, Found], None] | None = None,
) -> Found:
  """Decides images by branch and bound.

  Args:
    graph: the network, with one output.
    images: [I, ...], in the graph's type.
    region: around them: Linf, L2 or Bounds.
    spec: what is to be proved of each.
    settings: how.
    progress: called after each round.
    leaves: called with (`Root`, subdomains, their bounds) that are proved with the
      α and β that they have, as they come; images without a split too.
    decided: called with (numbers of images, what is known of all) when no more is
      done about these images, each once.

  Returns:
    What is known when all are decided, or have had their time, or at Ctrl-C.
  """
  run = _Search(graph, images, region, spec, settings, progress, leaves)
  told = np.zeros(len(images), bool)

  def tell(last: bool = False) -> None:
    now = np.flatnonzero((run.is_decided() | last) & ~told)
    if decided is not None and len(now):
      decided(now, run.found())
      told[now] = True

  try:
    run.begin()
    tell()
    while run.goes_on():
      run.round()
      tell()
  except KeyboardInterrupt:
    return run.found(interrupted=True)
  tell(last=True)
  return run.found()


class _Search:
  """A search under way."""

  def __init__(self, graph, images, region, spec, settings, progress, leaves):
    self._graph, self._region, self._spec = graph, region, spec
    self._settings, self._progress = settings, progress
    self._leaves = leaves or (lambda root, subdomains, bounds: None)
    self._images = np.asarray(images)
    count = len(self._images)
    # Of what is proved, and of what was given up.
    self._bound = np.full(count, -np.inf, self._images.dtype)
    self._given_up = np.zeros(count, bool)
    self._seconds, self._bounded = np.zeros(count), np.zeros(count, int)
    self._attacked_at = np.zeros(count)
    self._compiling = Compiling()
    self._pool = self._falsifier = None
    # Images and bounds of what is in a round, and so not in the pool.
    self._under_way = np.zeros(0, int), np.zeros(0)

  def begin(self) -> None:
    """Bounds roots, fills the pool, and attacks what is open."""
    settings, graph = self._settings, self._graph
    watch = Stopwatch(self._compiling)
    each = settings.batch or useful_batch(graph)
    began = start(
        graph, self._images, self._region, self._spec, settings.root_steps,
        min(max(1, each // 4), len(self._images)), self._compiling,
    )
    bound = np.where(np.isnan(began.bound), np.inf, began.bound).min(axis=2)
    rows, slopes = began.alpha.shape[2:]
    self._rounds = Rounds(
        graph, began.root, settings.batch, self._compiling
    )
    self._falsifier = Falsifier(
        graph, began.root, settings.attack_steps, settings.restarts,
        _STARTS * each, settings.seed, self._compiling,
    )
    pool = Pool(rows, slopes, bound.dtype, settings.pool_mib)

    def subdomains(which) -> Subdomains:
      image, group = (numbers.astype(np.int32) for numbers in which)
      zeros = np.zeros((len(image), rows, pool.depth), bound.dtype)
      return Subdomains(
          image, group, zeros[:, 0].astype(np.int32), began.alpha[which],
          zeros, began.slack[which].max(axis=1),
      )

    proved, is_open = np.nonzero(bound < 0), np.nonzero(~(bound < 0))
    np.maximum.at(self._bound, proved[0], bound[proved])
    self._root = began.root
    self._leaves(began.root, subdomains(proved), bound[proved])
    pool.add(subdomains(is_open), bound[is_open], False)
    self._pool = pool
    self._seconds += watch.seconds() / len(bound)
    self._attack(np.unique(is_open[0]))
    self._drop_decided()

  def goes_on(self) -> bool:
    """Whether anything is left to split, and time for it."""
    return self._pool.size > 0 and self._seconds.sum() < self._settings.total

  def round(self) -> None:
    """Splits the most promising subdomains."""
    watch = Stopwatch(self._compiling)
    places = self._promising()
    whole = self._pool.whole[places]
    steps = self._settings.steps
    if whole.any():
      # What cannot be split is proved by its own α and β, or never.
      places, steps = places[whole], _PATIENCE * steps
    self._under_way = self._pool.image[places], self._pool.bound[places]
    parents, bound = self._pool.take(places)
    full = (parents.decisions[:, -1] != 0).any()
    if full and not whole.any():
      self._pool.deepen()
      self._pool.add(parents, bound, whole.any())
      self._under_way = self._under_way[0][:0], self._under_way[1][:0]
      return
    found = self._rounds(parents, steps)
    self._keep(bound, found, whole.any())
    self._under_way = self._under_way[0][:0], self._under_way[1][:0]
    children = found.children
    self._falsifier.look_at(
        children.image, children.group, found.value, found.point
    )
    elapsed = watch.seconds()
    share = np.bincount(parents.image, minlength=len(self._bound))
    self._bounded += 2 * share
    self._seconds += elapsed * share / share.sum()
    self._drop_decided()
    images = np.unique(self._pool.image)
    # Again when an image has taken twice as long as at its last attack.
    late = self._seconds[images] > 1 + 2 * self._attacked_at[images]
    self._attack(images[late])
    self._drop_decided()
    self._report(2 * share.sum() / max(elapsed, 1e-9))

  def is_decided(self) -> np.ndarray:
    """Images of which nothing is left in the pool, bool [I]."""
    left = np.bincount(self._pool.image, minlength=len(self._bound))
    return left == 0

  def found(self, interrupted: bool = False) -> Found:
    """What is known now."""
    bound, points = self._bound.copy(), np.zeros_like(self._images)
    falsified, is_open = np.zeros((2, len(bound)), bool)
    if self._pool is None:
      is_open[:], bound[:] = True, np.inf
    else:
      np.maximum.at(bound, self._pool.image, self._pool.bound)
      is_open[self._pool.image] = True
      # A round that was interrupted proved nothing.
      np.maximum.at(bound, *self._under_way)
      is_open[self._under_way[0]] = True
    if self._falsifier is not None:
      for image, point in self._falsifier.points.items():
        falsified[image], points[image] = True, point
    verified = (bound < 0) & ~(is_open | falsified | self._given_up)
    return Found(
        verified, falsified, bound, points, self._seconds, self._bounded,
        interrupted,
    )

  def _promising(self) -> np.ndarray:
    """Places in the pool of what is split next."""
    image = self._pool.image
    left = np.bincount(image, minlength=len(self._bound))
    order = np.lexsort((-self._pool.bound, left[image]))
    return order[: self._rounds.size]

  def _keep(self, before: np.ndarray, found: Round, last: bool) -> None:
    """Puts what is not proved into the pool.

    Where nothing is left to split, both children are the parent, with α and β that
    were moved on: one of them is kept.

    Args:
      before: bounds of the parents.
      found: of their children.
      last: whether α and β were moved for long already; then it has to gain
        something.
    """
    bound = np.where(np.isnan(found.bound), np.inf, found.bound)
    children = found.children
    proved = bound < 0
    whole = np.repeat(found.neuron < 0, 2)
    second = np.arange(len(bound)) % 2 == 1
    proved &= ~(whole & second)
    some = lambda which: jax.tree.map(lambda leaf: leaf[which], children)
    np.maximum.at(self._bound, children.image[proved], bound[proved])
    self._leaves(self._root, some(proved), bound[proved])
    before = np.repeat(before, 2)
    with np.errstate(invalid="ignore"):
      gained = before - bound
      stands = ~(gained > _STILL * (np.abs(before) + np.abs(bound)))
    stuck = whole & stands & last & ~(bound < 0)
    self._give_up(children.image[stuck], bound[stuck])
    keeps = ~(proved | stuck | (whole & second))
    self._pool.add(
        some(keeps), np.minimum(bound, before)[keeps], whole[keeps]
    )

  def _give_up(self, images: np.ndarray, bounds: np.ndarray) -> None:
    self._given_up[images] = True
    np.maximum.at(self._bound, images, bounds)

  def _attack(self, images: np.ndarray) -> None:
    """Attacks the open groups of some images."""
    if not len(images):
      return
    watch, pool = Stopwatch(self._compiling), self._pool
    which = np.isin(pool.image, images)
    pairs = np.stack([pool.image[which], pool.group[which]], axis=1)
    self._falsifier.attack(np.unique(pairs, axis=0))
    self._seconds[images] += watch.seconds() / len(images)
    self._attacked_at[images] = self._seconds[images]

  def _drop_decided(self) -> None:
    """Takes out of the pool what is of no use any more."""
    pool, image = self._pool, self._pool.image
    decided = self._given_up.copy()
    decided[list(self._falsifier.points)] = True
    late = self._seconds > self._settings.seconds
    out = (decided | late)[image]
    while pool.size - out.sum() > pool.capacity:
      left = np.bincount(image[~out], minlength=len(late))
      late[np.argmax(left)] = True
      out = (decided | late)[image]
    of_late = (late & ~decided)[image]
    self._give_up(image[of_late], pool.bound[of_late])
    np.maximum.at(self._bound, image[out], pool.bound[out])
    pool.drop(np.flatnonzero(out))

  def _report(self, rate: float) -> None:
    pool = self._pool
    self._progress(State(
        len(np.unique(pool.image)), pool.size, int(self._bounded.sum()),
        float(pool.bound.max(initial=-np.inf)), rate,
    ))
