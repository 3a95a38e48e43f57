"""All processes stop after the same step, whichever of them is asked to."""

from collections.abc import Callable
import collections

import jax
from jax import lax
import numpy as np

from diffai_jax.processes import exchange

_AXIS = "devices"


class Stop:
  """Told of each step, it says whether to stop after it.

  A request travels with the steps: the largest of all processes' is taken on
  their devices, and read some steps later, when it is there. So nobody waits,
  and all see it after the same step.

  Args:
    requested: the number of a signal that asks this process to stop, or None.
    behind: steps that may be under way before a request is read.

  Attributes:
    signal: the number that all have agreed on, or None.
  """

  def __init__(self, requested: Callable[[], int | None], behind: int):
    self.signal: int | None = None
    self._requested = requested
    self._behind = behind
    self._under_way = collections.deque()
    self._largest = jax.pmap(
        lambda number: lax.pmax(number, _AXIS), axis_name=_AXIS, out_axes=None
    )

  def __call__(self) -> bool:
    """After each step, in every process: whether to stop here."""
    number = self._requested() or 0
    if exchange.count() > 1:
      number = self._agreed(number)
    self.signal = number or None
    return bool(number)

  def at_end(self) -> int | None:
    """After the last step, in every process: the signal that came since."""
    self._under_way.clear()
    self.signal = exchange.agreed(self._requested() or 0) or None
    return self.signal

  def _agreed(self, number: int) -> int:
    numbers = np.full(jax.local_device_count(), number, np.int32)
    self._under_way.append(self._largest(numbers))
    if len(self._under_way) <= self._behind:
      return 0
    return int(self._under_way.popleft())
