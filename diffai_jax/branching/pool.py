"""Open subdomains, on the host: as many as memory that is stated allows.

One row of a few arrays each: of the neurons that are open at the root α in 16 bits,
β and bounds; and decisions as lists of the same length, which grows for all when the
deepest subdomain needs it.
"""

import numpy as np

from diffai_jax.branching.subdomains import Subdomains
from diffai_jax.branching.table import Table

_DEPTH = 16  # Decisions at first; twice as many whenever they are full.


class Pool(Table):
  """Subdomains with their bounds.

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
    self.depth, self._most = _DEPTH, most_mib * 2**20
    super().__init__({
        "image": np.zeros(0, np.int32),
        "group": np.zeros(0, np.int32),
        "decisions": np.zeros((0, _DEPTH), np.int32),
        "alpha": np.zeros((0, rows, slopes), np.float16),
        "beta": np.zeros((0, rows, slopes), dtype),
        "slack": np.zeros(0, dtype),
        "low": np.zeros((0, slopes), dtype),
        "high": np.zeros((0, slopes), dtype),
        "bound": np.zeros(0, dtype),
        "whole": np.zeros(0, bool),
        "since": np.zeros(0, np.int32),
    })

  @property
  def capacity(self) -> int:
    """How many subdomains fit into memory."""
    each = sum(
        array.dtype.itemsize * int(np.prod(array.shape[1:]))
        for array in self._arrays.values()
    )
    return max(1, int(self._most / each))

  @property
  def whole(self) -> np.ndarray:
    """Whether nothing is left to split."""
    return self._arrays["whole"][: self.size]

  @property
  def since(self) -> np.ndarray:
    """Splits since a subdomain was cut last."""
    return self._arrays["since"][: self.size]

  def add(
      self, some: Subdomains, bound: np.ndarray, whole: np.ndarray | bool,
      since: np.ndarray | int = 0,
  ) -> None:
    """Keeps N subdomains: their bounds, whether they are `whole`, `since`."""
    rows = {k: np.asarray(v) for k, v in vars(some).items()}
    self._fit(rows["decisions"].shape[-1])
    rows["decisions"] = _wider(rows["decisions"], self.depth)
    self.append(rows | {"bound": bound, "whole": whole, "since": since})

  def take(
      self, places: np.ndarray
  ) -> tuple[Subdomains, np.ndarray, np.ndarray]:
    """Removes the subdomains of these places: (they, bounds, `since`)."""
    taken = self.pop(places)
    bound, since, _ = (taken.pop(k) for k in ("bound", "since", "whole"))
    return Subdomains(**taken), bound, since

  def deepen(self) -> None:
    """Makes place for twice as many decisions."""
    self._fit(2 * self.depth)

  def _fit(self, depth: int) -> None:
    self.depth = max(self.depth, depth)
    self._arrays["decisions"] = _wider(self._arrays["decisions"], self.depth)


def _wider(array: np.ndarray, depth: int) -> np.ndarray:
  """With zeros behind, up to that length of the last axis."""
  more = depth - array.shape[-1]
  return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)]) if more else array
