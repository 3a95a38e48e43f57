"""Branch and bound on the signs of ReLUs.

One pool holds the open subdomains of all images and of all groups of the spec. Each
round takes as many as the devices have place for, those of images that have the
fewest left first, and of an image those with the worst bound; splits them, and
keeps the children that are not proved.
"""

import jax
import numpy as np

from diffai_jax.branching.bounding import Round, Subdomains
from diffai_jax.branching.compiling import Stopwatch
from diffai_jax.branching.decisions import is_small, neurons_of
from diffai_jax.branching.falsify import Falsifier
from diffai_jax.branching.ledger import Ledger
from diffai_jax.branching.pool import Pool
from diffai_jax.branching.roots import start
from diffai_jax.branching.rounds import Rounds, useful_batch

# A bound that moves by less, of its own size, stands still.
_STILL = 1e-4
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
      zeros = np.zeros((len(image), rows, pool.depth), bound.dtype)
      return Subdomains(
          image, group, zeros[:, 0].astype(np.int32), began.alpha[which],
          zeros, began.slack[which].max(axis=1),
      )

    proved, is_open = np.nonzero(bound < 0), np.nonzero(~(bound < 0))
    self.proves(proved[0], bound[proved])
    self._leaves(self._root, subdomains(proved), bound[proved])
    pool.add(subdomains(is_open), bound[is_open], False)
    self.table = pool
    self.seconds += watch.seconds() / len(bound)
    self.drop_decided()
    self.attack(np.unique(pool.image))
    if not neurons_of(graph).count:
      self.gives_up(pool.image, pool.bound)
      self.drop_decided()

  def round(self) -> None:
    """Splits the most promising subdomains."""
    watch, pool = Stopwatch(self.compiling), self.table
    order = self.promising(pool.size)
    places, positions = self._rounds.places_in_slots(order, pool.image[order])
    whole, steps = pool.whole[places], self._steps
    if whole.any():
      # What cannot be split is proved by its own α and β, or never.
      places, steps = places[whole], _PATIENCE * steps
      places, positions = self._rounds.places_in_slots(
          places, pool.image[places]
      )
    self.begins(places)
    parents, bound = pool.take(places)
    if (parents.decisions[:, -1] != 0).any() and not whole.any():
      pool.deepen()
      pool.add(parents, bound, False)
      self.ends()
      return
    found = self._rounds(parents, positions, steps)
    self._keep(bound, found, bool(whole.any()))
    self.ends()
    children = found.children
    self.falsifier.look_at(
        children.image, children.group, found.value, found.point,
        np.repeat(2 * positions, 2) + np.tile([0, 1], len(positions)),
    )
    self.after(parents.image, 2, watch.seconds())

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
    self.falsifier.solve(ends.image, ends.group, ends.decisions)
    self.gives_up(children.image[stuck], bound[stuck])
    keeps = ~(proved | stuck | out)
    self.table.add(
        some(keeps), np.minimum(bound, before)[keeps], whole[keeps]
    )
