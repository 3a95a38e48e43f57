"""What a search knows of each image: bounds, seconds, points; and who is out."""

import numpy as np

from diffai_jax.branching.compiling import Compiling, Stopwatch
from diffai_jax.branching.falsify import Falsifier
from diffai_jax.branching.settings import Found, Settings, State
from diffai_jax.branching.table import Table


class Ledger:
  """Base of searches: how they split is theirs, what follows is here.

  A subclass sets `table`, with `capacity` rows at most, and `falsifier`, and tells
  what is under way: an interrupt may come anywhere, and what is not in the table
  then must not be taken for proved.
  """

  def __init__(self, images: np.ndarray, settings: Settings, progress):
    self.settings, self._progress = settings, progress
    self.images, count = images, len(images)
    # Of what is proved, and of what was given up.
    self.bound = np.full(count, -np.inf, images.dtype)
    self.given_up = np.zeros(count, bool)
    self.seconds, self.bounded = np.zeros(count), np.zeros(count, int)
    self._attacked_at = np.zeros(count)
    self.compiling = Compiling()
    self.table: Table | None = None
    self.falsifier: Falsifier | None = None
    # Images and bounds of what is in a round, and so not in the table.
    self.under_way = np.zeros(0, int), np.zeros(0)

  def goes_on(self) -> bool:
    """Whether anything is left to split, and time for it."""
    return self.table.size > 0 and self.seconds.sum() < self.settings.total

  def is_decided(self) -> np.ndarray:
    """Images of which nothing is left, bool [I]."""
    return np.bincount(self.table.image, minlength=len(self.bound)) == 0

  def found(self, interrupted: bool = False) -> Found:
    """What is known now."""
    bound, points = self.bound.copy(), np.zeros_like(self.images)
    falsified, is_open = np.zeros((2, len(bound)), bool)
    if self.table is None:
      is_open[:], bound[:] = True, np.inf
    else:
      for image, bounds in ((self.table.image, self.table.bound),
                            self.under_way):
        np.maximum.at(bound, image, bounds)
        is_open[image] = True
    if self.falsifier is not None:
      for image, point in self.falsifier.points.items():
        falsified[image], points[image] = True, point
    verified = (bound < 0) & ~(is_open | falsified | self.given_up)
    return Found(
        verified, falsified, bound, points, self.seconds, self.bounded,
        interrupted,
    )

  def promising(self, count: int) -> np.ndarray:
    """Places in the table of what is next: the fewest left, the worst bound.

    Those of an image stand one behind the other.
    """
    image = self.table.image
    left = np.bincount(image, minlength=len(self.bound))
    return np.lexsort((-self.table.bound, image, left[image]))[:count]

  def begins(self, places: np.ndarray) -> None:
    """Says that the rows of these places are taken out of the table."""
    self.under_way = self.table.image[places], self.table.bound[places]

  def ends(self) -> None:
    """Says that what was taken is in the table again, or proved."""
    self.under_way = self.under_way[0][:0], self.under_way[1][:0]

  def proves(self, images: np.ndarray, bounds: np.ndarray) -> None:
    """Notes the bounds of what is proved."""
    np.maximum.at(self.bound, images, bounds)

  def gives_up(self, images: np.ndarray, bounds: np.ndarray) -> None:
    """Notes images that stay unknown, with bounds of what is left of them."""
    self.given_up[images] = True
    np.maximum.at(self.bound, images, bounds)

  def after(self, images: np.ndarray, each: int, elapsed: float) -> None:
    """What follows a round.

    Args:
      images: of what was split or bounded.
      each: how many were bounded for each of them.
      elapsed: its seconds.
    """
    share = np.bincount(images, minlength=len(self.bound))
    self.bounded += each * share
    self.seconds += elapsed * share / share.sum()
    self.drop_decided()
    left = np.unique(self.table.image)
    # Again when an image has taken twice as long as at its last attack.
    late = self.seconds[left] > 1 + 2 * self._attacked_at[left]
    self.attack(left[late])
    table = self.table
    self._progress(State(
        len(np.unique(table.image)), table.size, int(self.bounded.sum()),
        float(table.bound.max(initial=-np.inf)),
        each * len(images) / max(elapsed, 1e-9),
    ))

  def attack(self, images: np.ndarray) -> None:
    """Attacks the open groups of some images."""
    if not len(images):
      return
    watch, table = Stopwatch(self.compiling), self.table
    which = np.isin(table.image, images)
    pairs = np.stack([table.image[which], table.group[which]], axis=1)
    self.falsifier.attack(np.unique(pairs, axis=0))
    self.seconds[images] += watch.seconds() / len(images)
    self._attacked_at[images] = self.seconds[images]
    self.drop_decided()

  def drop_decided(self) -> None:
    """Takes out of the table what is of no use any more."""
    table, image = self.table, self.table.image
    decided = self.given_up.copy()
    decided[list(self.falsifier.points)] = True
    late = self.seconds > self.settings.seconds
    out = (decided | late)[image]
    while table.size - out.sum() > table.capacity:
      left = np.bincount(image[~out], minlength=len(late))
      late[np.argmax(left)] = True
      out = (decided | late)[image]
    of_late = (late & ~decided)[image]
    self.gives_up(image[of_late], table.bound[of_late])
    np.maximum.at(self.bound, image[out], table.bound[out])
    table.drop(np.flatnonzero(out))
