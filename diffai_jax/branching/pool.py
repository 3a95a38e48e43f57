"""Open subdomains, on the host: as many as memory that is stated allows.

One row of a few arrays each: α of the neurons that are open at the root in 16 bits,
β and decisions as lists of the same length, which grows for all when the deepest
subdomain needs it.
"""

import numpy as np

from diffai_jax.branching.bounding import Subdomains

_DEPTH = 16  # Decisions at first; twice as many whenever they are full.


class Pool:
  """Subdomains with their bounds; rows move when others are taken.

  Attributes:
    size: how many there are.
    depth: the length of their lists of decisions.
  """

  def __init__(self, rows: int, slopes: int, dtype, most_mib: float):
    """
    Args:
      rows: S of a subdomain.
      slopes: K of them.
      dtype: of bounds and β.
      most_mib: what the arrays may take.
    """
    self.size, self.depth = 0, _DEPTH
    self._most = most_mib * 2**20
    self._dtype, self._slopes, self._rows = dtype, slopes, rows
    self._arrays = self._empty(64)

  @property
  def capacity(self) -> int:
    """How many subdomains fit into memory."""
    return max(1, int(self._most / self._bytes()))

  @property
  def image(self) -> np.ndarray:
    return self._arrays["image"][: self.size]

  @property
  def group(self) -> np.ndarray:
    return self._arrays["group"][: self.size]

  @property
  def bound(self) -> np.ndarray:
    return self._arrays["bound"][: self.size]

  @property
  def whole(self) -> np.ndarray:
    """Whether nothing is left to split."""
    return self._arrays["whole"][: self.size]

  def add(
      self, some: Subdomains, bound: np.ndarray, whole: np.ndarray | bool
  ) -> None:
    """Keeps N subdomains with their bounds, and whether they are `whole`."""
    count = len(bound)
    self._fit(some.decisions.shape[1])
    need = self.size + count
    if need > len(self._arrays["bound"]):
      larger = self._empty(max(need, 2 * len(self._arrays["bound"])))
      for name, array in self._arrays.items():
        larger[name][: self.size] = array[: self.size]
      self._arrays = larger
    given = vars(some) | {"bound": bound, "whole": whole}
    for name, array in self._arrays.items():
      value = np.asarray(given[name])
      if name in ("decisions", "beta"):
        array[self.size : need, ..., : value.shape[-1]] = value
        array[self.size : need, ..., value.shape[-1] :] = 0
      else:
        array[self.size : need] = value
    self.size = need

  def take(self, places: np.ndarray) -> tuple[Subdomains, np.ndarray]:
    """Removes the subdomains of these places: (they, their bounds)."""
    taken = {name: a[: self.size][places] for name, a in self._arrays.items()}
    self.drop(places)
    bound, _ = taken.pop("bound"), taken.pop("whole")
    return Subdomains(**taken), bound

  def drop(self, places: np.ndarray) -> None:
    """Removes the subdomains of these places; the last ones fill the gaps."""
    gone = np.zeros(self.size, bool)
    gone[places] = True
    left = self.size - int(gone.sum())
    holes = np.flatnonzero(gone[:left])
    fill = left + np.flatnonzero(~gone[left:])
    for array in self._arrays.values():
      array[holes] = array[fill]
    self.size = left

  def deepen(self) -> None:
    """Makes place for twice as many decisions."""
    self._fit(2 * self.depth)

  def _fit(self, depth: int) -> None:
    if depth <= self.depth:
      return
    self.depth = depth
    wider = self._empty(len(self._arrays["bound"]))
    for name, array in self._arrays.items():
      wider[name][..., : array.shape[-1]] = array
    self._arrays = wider

  def _bytes(self) -> int:
    """Of one subdomain."""
    each = np.dtype(self._dtype).itemsize
    rows = self._rows * (2 * self._slopes + each * self.depth)
    return rows + 4 * self.depth + 9 + 2 * each

  def _empty(self, count: int) -> dict[str, np.ndarray]:
    rows, dtype = self._rows, self._dtype
    return {
        "image": np.zeros(count, np.int32),
        "group": np.zeros(count, np.int32),
        "decisions": np.zeros((count, self.depth), np.int32),
        "alpha": np.zeros((count, rows, self._slopes), np.float16),
        "beta": np.zeros((count, rows, self.depth), dtype),
        "slack": np.zeros(count, dtype),
        "bound": np.zeros(count, dtype),
        "whole": np.zeros(count, bool),
    }
