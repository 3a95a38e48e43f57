"""When a training run saves its state, and what is reported if it cannot."""

from collections.abc import Callable
import time

import jax
import numpy as np

from diffai_jax.training import checkpoints
from diffai_jax.training.state import TrainState
from diffai_jax.types import UsageError


class Saver:
  """Saves checkpoints at intervals; a failure is reported, and tried again.

  Args:
    keeper: of the run's checkpoints.
    minutes: between two of them.
    warn: is told, in one line, of what cannot be saved.

  Attributes:
    keeper: of the run's checkpoints.
    trouble: why the last state could not be saved, in one line, or None.
  """

  def __init__(
      self, keeper: checkpoints.Keeper, minutes: float,
      warn: Callable[[str], None],
  ):
    self.keeper = keeper
    self.trouble = None
    self._minutes = minutes
    self._warn = warn
    self._last = time.monotonic()

  def is_due(self) -> bool:
    """Whether it is time for another one."""
    return time.monotonic() - self._last > 60 * self._minutes

  def write(self, state: TrainState, must: bool = False) -> TrainState:
    """Writes a state; a checkpoint once its step is confirmed.

    Args:
      state: stays as it is.
      must: whether it is an error if it cannot be written.

    Returns:
      A copy of it in the memory of the host.

    Raises:
      UsageError: if it cannot be written and must be.
    """
    kept = jax.tree.map(np.array, state)
    try:
      self.keeper.write(kept)
      self.trouble = None
    except checkpoints.CannotSave as error:
      self._tell(int(kept.step), error)
      if must:
        raise UsageError(self.trouble) from None
      self._warn(f"{self.trouble}; training goes on")
    self._last = time.monotonic()
    return kept

  def begin(self, state: TrainState, last: bool) -> None:
    """Saves the state that a run begins with: what cannot be is not begun.

    Args:
      state: a fresh one.
      last: whether no step follows, which would confirm it.

    Raises:
      UsageError: if it cannot be saved.
    """
    self.write(state, must=True)
    if last:
      self.confirm(int(state.step))

  def confirm(self, step: int) -> None:
    """What was written up to that step can go on."""
    try:
      self.keeper.confirm(step)
    except checkpoints.CannotSave as error:
      self._tell(step, error)
      self._warn(f"{self.trouble}; training goes on")

  def _tell(self, step: int, error: Exception) -> None:
    self.trouble = (
        f"step {step} cannot be saved in {self.keeper.folder} ({error})"
    )

  def where(self, number: int, total: int) -> str:
    """What is told of a run that is stopped after a step."""
    latest = self.keeper.latest
    if self.trouble:
      saved = f"{self.trouble}; the last checkpoint is {latest or 'none'}"
    else:
      saved = f"saved as {latest}; the same command goes on from there"
    return f"after step {number} of {total}; {saved}"
