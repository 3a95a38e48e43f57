"""When a training run saves its state, and what is reported if it cannot."""

from collections.abc import Callable
import collections
from concurrent import futures
import dataclasses
import time

import jax
import numpy as np

from diffai_jax.training import checkpoints
from diffai_jax.training.state import TrainState
from diffai_jax.types import UsageError


@dataclasses.dataclass(frozen=True)
class _Task:
  """Something that the thread does.

  Attributes:
    step: of the state that it is about.
    is_write: whether it writes that state; otherwise it confirms it.
    future: its end.
  """

  step: int
  is_write: bool
  future: futures.Future


class Saver:
  """Saves checkpoints at intervals; a failure is reported, and tried again.

  A state is copied to the host and written by a thread while training goes on.
  Usable as a context manager, which waits for the thread and removes what is
  unconfirmed.

  Args:
    keeper: of the run's checkpoints.
    minutes: between two of them; a state that is due while the one before is
      still being written waits for the next step. 0 saves every step.
    warn: is told, in one line, of what cannot be saved.

  Attributes:
    keeper: of the run's checkpoints.
    trouble: why the last state could not be saved, in one line, or None; as far
      as is known.
    before_confirm: called before a checkpoint becomes one. What a run that goes
      on from it does not write again must be kept by then.
  """

  def __init__(
      self, keeper: checkpoints.Keeper, minutes: float,
      warn: Callable[[str], None],
  ):
    self.keeper = keeper
    self.trouble = None
    self.before_confirm = lambda: None
    self._minutes = minutes
    self._warn = warn
    self._last = time.monotonic()
    self._thread = futures.ThreadPoolExecutor(1)  # It works in order.
    self._tasks = collections.deque()  # Those whose end was not looked at.
    self._unconfirmed = []  # Steps of states.

  def is_due(self) -> bool:
    """Whether it is time for another one, and the one before is written."""
    self._settle(wait=not self._minutes)  # 0 minutes: after every step.
    return (
        not any(task.is_write for task in self._tasks)
        and time.monotonic() - self._last > 60 * self._minutes
    )

  def write(self, state: TrainState) -> TrainState:
    """Begins to write a state: a checkpoint once its step is confirmed.

    Args:
      state: stays as it is; it may be donated afterwards.

    Returns:
      A copy of it in the memory of the host.
    """
    kept = jax.tree.map(np.array, state)
    step = int(kept.step)
    self._start(step, True, self.keeper.write, kept)
    self._unconfirmed.append(step)
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
    self.write(state)
    self._settle(wait=True, tell=False)
    if self.trouble:
      raise UsageError(self.trouble)
    if last:
      self.confirm(int(state.step))
      self.finish()

  def confirm(self, step: int) -> None:
    """What was written up to that step can go on: a checkpoint once it is."""
    self._settle()
    if any(number <= step for number in self._unconfirmed):
      self.before_confirm()
      self._unconfirmed = [n for n in self._unconfirmed if n > step]
      self._start(step, False, self.keeper.confirm, step)

  def finish(self) -> None:
    """Waits until everything is written."""
    self._settle(wait=True)

  def latest(self) -> str | None:
    """The newest checkpoint, once everything is written."""
    self.finish()
    return self.keeper.latest

  def _start(self, step: int, is_write: bool, function, argument) -> None:
    future = self._thread.submit(function, argument)
    self._tasks.append(_Task(step, is_write, future))

  def _settle(self, wait: bool = False, tell: bool = True) -> None:
    """Looks at how tasks ended, in their order.

    Args:
      wait: for all of them, and not only for those that have ended.
      tell: whether to warn of what could not be saved.
    """
    while self._tasks and (wait or self._tasks[0].future.done()):
      task = self._tasks.popleft()
      try:
        task.future.result()
      except checkpoints.CannotSave as error:
        self.trouble = (
            f"step {task.step} cannot be saved in {self.keeper.folder}"
            f" ({error})"
        )
        if tell:
          self._warn(f"{self.trouble}; training goes on")
      else:
        if task.is_write:
          self.trouble = None

  def __enter__(self) -> "Saver":
    return self

  def __exit__(self, *exception) -> None:
    try:
      self.finish()
    finally:
      self._thread.shutdown()
      self.keeper.close()

  def where(self, number: int, total: int) -> str:
    """What is told of a run that is stopped after a step."""
    latest = self.latest()
    if self.trouble:
      saved = f"{self.trouble}; the last checkpoint is {latest or 'none'}"
    else:
      saved = f"saved as {latest}; the same command goes on from there"
    return f"after step {number} of {total}; {saved}"
