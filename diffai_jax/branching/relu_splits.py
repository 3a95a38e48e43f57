"""Branch and bound on the signs of ReLUs.

One pool holds the open subdomains of all images and of all groups of the spec. Each
round takes as many as the devices have place for, those of images that have the
fewest left first, and of an image those with the worst bound; splits them, and
keeps the children that are not proved.
"""

import math

import jax
import numpy as np

from diffai_jax.branching.bounding import Round
from diffai_jax.branching.compiling import Stopwatch
from diffai_jax.branching.decisions import is_small, neurons_of
from diffai_jax.branching.falsify import Falsifier
from diffai_jax.branching.ledger import Ledger
from diffai_jax.branching.pool import Pool
from diffai_jax.branching.roots import start
from diffai_jax.branching.rounds import Rounds, useful_batch
from diffai_jax.branching.subdomains import Subdomains

# A bound that moves by less, of its own size, stands still.
_STILL = 1e-4
# Of the seconds of an image, what one cut may take; at most so many are in a row, at a
# root; and so many splits are between two at least.
_SHARE, _TIMES, _FEWEST = 0.25, 20, 3
_NEVER = 2**20
# How many times as many steps are for what cannot be split.
_PATIENCE = 50
# Starts that are attacked at once, for each parent of a round.
_STARTS = 2


class ReluSplits(Ledger):
  """A search under way; arguments are those of `search`."""

  def __init__(
      self, graph, images, region, spec, settings, progress, leaves
  ):
    super().__init__(images, settings, progress)
    self._graph, self._region, self._spec = graph, region, spec
    self._leaves = leaves or (lambda root, subdomains, bounds: None)
    is_few = is_small(graph, settings.few_relus)
    self._steps = settings.few_steps if is_few else settings.steps
    # What is cut has no leaf that shows what it was cut by.
    self._cuts = (
        leaves is None and settings.cuts and not is_few
        and neurons_of(graph).count > 0
    )
    self._is_cut, self._cut_seconds, self._split_seconds = False, 0.0, 0.0

  def begin(self) -> None:
    """Bounds roots, fills the pool, and attacks what is open."""
    settings, graph = self.settings, self._graph
    watch = Stopwatch(self.compiling)
    each = settings.batch or useful_batch(graph)
    began = start(
        graph, self.images, self._region, self._spec, settings.root_steps,
        min(max(1, each // 4), len(self.images)), self.compiling,
    )
    self._root = began.root
    bound = np.where(np.isnan(began.bound), np.inf, began.bound).min(axis=2)
    rows, slopes = began.alpha.shape[2:]
    self._rounds = Rounds(graph, began.root, settings.batch, self.compiling)
    self.falsifier = Falsifier(
        graph, began.root, settings.attack_steps, settings.restarts,
        _STARTS * each, settings.seed, self.compiling,
    )
    pool = Pool(rows, slopes, bound.dtype, settings.pool_mib)

    def subdomains(which) -> Subdomains:
      image, group = (numbers.astype(np.int32) for numbers in which)
      alpha = began.alpha[which]
      return Subdomains(
          image, group, np.zeros((len(image), pool.depth), np.int32), alpha,
          np.zeros(alpha.shape, bound.dtype), began.slack[which].max(axis=1), began.low[image],
          began.high[image],
      )

    proved, is_open = np.nonzero(bound < 0), np.nonzero(~(bound < 0))
    self.proves(proved[0], bound[proved])
    self._leaves(self._root, subdomains(proved), bound[proved])
    pool.add(subdomains(is_open), bound[is_open], False, _NEVER)
    self.table = pool
    # A cut takes about as long as a root.
    self._cut_seconds = watch.seconds() / len(bound)
    self.seconds += self._cut_seconds
    self.drop_decided()
    self.attack(np.unique(pool.image))
    if not neurons_of(graph).count:
      self.gives_up(pool.image, pool.bound)
      self.drop_decided()

  def round(self) -> None:
    """Splits the most promising subdomains."""
    watch, pool = Stopwatch(self.compiling), self.table
    order = self.promising(pool.size)
    is_due = pool.since[order] >= self._levels()
    if is_due.all() or is_due.sum() >= self._rounds.cut_size:
      self._cut(order[is_due][: self._rounds.cut_size])
      return
    order = order[~is_due]  # The others wait until a batch is full.
    places, positions = self._rounds.places_in_slots(order, pool.image[order])
    whole, steps = pool.whole[places], self._steps
    if whole.any():
      # What cannot be split is proved by its own α and β, or never.
      places, steps = places[whole], _PATIENCE * steps
      places, positions = self._rounds.places_in_slots(
          places, pool.image[places]
      )
    self.begins(places)
    parents, bound, since = pool.take(places)
    if (parents.decisions[:, -1] != 0).any() and not whole.any():
      pool.deepen()
      pool.add(parents, bound, False, since)
      self.ends()
      return
    found = self._rounds(parents, positions, steps)
    self._keep(bound, since, found, bool(whole.any()))
    self.ends()
    children = found.children
    self.falsifier.look_at(
        children.image, children.group, found.value, found.point,
        np.repeat(2 * positions, 2) + np.tile([0, 1], len(positions)),
    )
    seconds = watch.seconds()
    self._split_seconds = seconds / (2 * len(bound))
    self.after(parents.image, 2, seconds)

  def _levels(self) -> float:
    """After how many splits a subdomain is cut: so that cuts take half the time."""
    if not self._cuts or self._cut_seconds > _SHARE * self.settings.seconds:
      return np.inf
    ratio = self._cut_seconds / max(self._split_seconds, 1e-9)
    return max(_FEWEST, math.log2(max(ratio, 1)))

  def _cut(self, places: np.ndarray) -> None:
    """Cuts the subdomains of these places, and keeps what is not proved."""
    watch = Stopwatch(self.compiling)
    self.begins(places)
    some, before, since = self.table.take(places)
    times = 1
    if (since >= _NEVER).any():
      allowed = _SHARE * self.settings.seconds / max(self._cut_seconds, 1e-9)
      times = int(np.clip(allowed, 1, _TIMES))
    some, bound, times = self._rounds.cut(some, self._steps, times)
    self._is_cut = True
    bound = np.fmin(np.where(np.isnan(bound), np.inf, bound), before)
    proved = bound < 0
    self.proves(some.image[proved], bound[proved])
    keeps = jax.tree.map(lambda leaf: leaf[~proved], some)
    self.table.add(keeps, bound[~proved], False)
    self.ends()
    seconds = watch.seconds()
    self._cut_seconds = seconds / (self._rounds.cut_size * times)
    self.after(some.image, 1, seconds)

  def proves(self, images: np.ndarray, bounds: np.ndarray) -> None:
    """Of runs that may break a row; of others there is no bound but 0."""
    if self._is_cut:
      bounds = np.maximum(bounds, -np.finfo(bounds.dtype).tiny)
    super().proves(images, bounds)

  def _keep(
      self, before: np.ndarray, since: np.ndarray, found: Round, last: bool
  ) -> None:
    """Puts what is not proved into the pool.

    Where nothing is left to split, both children are the parent, with α and β that
    were moved on: one of them is kept.

    Args:
      before: bounds of the parents.
      since: splits since these were cut.
      found: of their children.
      last: whether α and β were moved for long already; then it has to gain
        something.
    """
    bound = np.where(np.isnan(found.bound), np.inf, found.bound)
    children = found.children
    proved = bound < 0
    whole = np.repeat(found.neuron < 0, 2)
    second = np.arange(len(bound)) % 2 == 1
    # Either of two equal ones may be what is proved.
    twin = proved.reshape(-1, 2)[:, ::-1].reshape(-1)
    out = whole & (second & ~(proved & ~twin) | twin & ~proved)
    proved &= ~out
    some = lambda which: jax.tree.map(lambda leaf: leaf[which], children)
    self.proves(children.image[proved], bound[proved])
    self._leaves(self._root, some(proved), bound[proved])
    before = np.repeat(before, 2)
    with np.errstate(invalid="ignore"):
      gained = before - bound
      stands = ~(gained > _STILL * (np.abs(before) + np.abs(bound)))
    stuck = whole & stands & ~proved & ~out & last
    ends = some(stuck)
    # Signs that are known, by decisions or by cuts.
    places = np.asarray(self._root.places)[ends.image]
    signed = (places + 1) * np.where(ends.low >= 0, 1, -1)
    is_one = places < neurons_of(self._graph).count
    self.falsifier.solve(
        ends.image, ends.group, np.where(is_one, signed, 0)
    )
    self.gives_up(children.image[stuck], bound[stuck])
    keeps = ~(proved | stuck | out)
    self.table.add(
        some(keeps), np.minimum(bound, before)[keeps], whole[keeps],
        np.repeat(since + 1, 2)[keeps],
    )
