"""Open subdomains of any kind, as a few arrays with a row for each."""

import numpy as np


class Table:
  """Rows of arrays by name; they move when others are taken.

  Attributes:
    size: how many rows there are.
  """

  def __init__(self, like: dict[str, np.ndarray]):
    """
    Args:
      like: arrays [0, ...] by name, with "image", "group" and "bound".
    """
    self.size, self._arrays = 0, like

  @property
  def image(self) -> np.ndarray:
    return self._arrays["image"][: self.size]

  @property
  def group(self) -> np.ndarray:
    return self._arrays["group"][: self.size]

  @property
  def bound(self) -> np.ndarray:
    return self._arrays["bound"][: self.size]

  def append(self, rows: dict[str, np.ndarray]) -> None:
    """Adds rows, of every name."""
    need = self.size + len(rows["image"])
    if need > len(self._arrays["bound"]):
      self._arrays = {
          name: np.resize(array, (max(64, 2 * need),) + array.shape[1:])
          if len(array) else np.zeros(
              (max(64, 2 * need),) + array.shape[1:], array.dtype
          )
          for name, array in self._arrays.items()
      }
    for name, array in self._arrays.items():
      array[self.size : need] = rows[name]
    self.size = need

  def pop(self, places: np.ndarray) -> dict[str, np.ndarray]:
    """Removes the rows of these places, and gives them."""
    taken = {name: a[: self.size][places] for name, a in self._arrays.items()}
    self.drop(places)
    return taken

  def drop(self, places: np.ndarray) -> None:
    """Removes the rows of these places; the last ones fill the gaps."""
    gone = np.zeros(self.size, bool)
    gone[places] = True
    left = self.size - int(gone.sum())
    holes = np.flatnonzero(gone[:left])
    fill = left + np.flatnonzero(~gone[left:])
    for array in self._arrays.values():
      array[holes] = array[fill]
    self.size = left
