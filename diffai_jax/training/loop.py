"""The loop of training: steps, their metrics, and what ends it.

It knows steps, batches and states. Where a config comes from, who watches and
where a work folder is, it is told by functions.
"""

from collections.abc import Callable, Iterator
import collections
import dataclasses
import math
import time

import jax
import numpy as np

from diffai_jax.kernels import platforms
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState
from diffai_jax.training.step import Step
from diffai_jax.types import UsageError

# Steps that may be under way before the oldest one's metrics are looked at.
_STEPS_AHEAD = 4
_SECONDS_BETWEEN_ROWS = 2.0


class NotFiniteError(UsageError):
  """Training met a loss or gradient that is not finite."""


@dataclasses.dataclass(frozen=True)
class Length:
  """How long a run is.

  Attributes:
    total: number of steps.
    per_epoch: steps of an epoch.
    batch_size: examples of a step, over all devices.
  """

  total: int
  per_epoch: int
  batch_size: int


def run(
    state: TrainState,
    length: Length,
    step_at: Callable[[int], Step],
    stream: Iterator[tuple[np.ndarray, np.ndarray]],
    report: Callable[[int, dict[str, float]], None],
    *,
    saver: Saver | None = None,
    stopped: Callable[[], bool] = lambda: False,
    epoch_rows: bool = False,
) -> TrainState:
  """Takes the steps that are not taken yet.

  A state is confirmed to the saver once the step after it is finite. After the
  last one no step would come, so one is tried, on a copy.

  Args:
    state: the state to go on from, as `create_state` makes it; it is donated.
    length: of the run.
    step_at: the step to take on the state after so many steps.
    stream: batches (images, labels) from the state's step on.
    report: is given rows: (number of the step, values by name). Values are means
      over the steps since the last row, of `epsilon` and `largest_bound` the
      largest; with `epoch` and `examples_per_second`. The last step has one.
    saver: of checkpoints; it has confirmed or written the state given. None
      saves nothing.
    stopped: looked at after each step; the run ends there when it is true.
    epoch_rows: whether the end of each epoch has a row; otherwise there is one
      every two seconds.

  Returns:
    The last state; its `step` is below length.total if the run was stopped.

  Raises:
    NotFiniteError: if a loss or gradient is not finite.
  """
  first = int(state.step)
  devices = jax.local_device_count()
  ahead = _STEPS_AHEAD if platforms.queues_steps() else 0
  pending = collections.deque()  # (step, metrics) of steps under way.
  summary = _Summary(length, epoch_rows)

  def check(number: int, metrics: dict) -> dict[str, float]:
    """The metrics of a step; the state before it is good if they are."""
    values = {name: float(v) for name, v in metrics.items()}
    latest = saver.keeper.latest if saver else None
    _check_finite(number, number / length.per_epoch, values, latest)
    if saver:
      saver.confirm(number - 1)
    return values

  def look(until: int) -> None:
    """Checks and reports metrics until at most `until` are under way."""
    while len(pending) > until:
      number, metrics = pending.popleft()
      row = summary.add(number, check(number, metrics))
      if row is not None:
        report(number, {"epoch": number / length.per_epoch} | row)

  for number in range(first + 1, length.total + 1):
    images, labels = next(stream)
    shape = (devices, len(labels) // devices)
    batch = images.reshape(shape + images.shape[1:]), labels.reshape(shape)
    step = step_at(number - 1)
    state, metrics = step(state, *batch)
    pending.append((number, metrics))
    look(ahead)
    ends = number == length.total or stopped()
    if ends:
      look(0)
      # It takes the state's memory; there is a copy on the host.
      kept = saver.write(state) if saver else jax.tree.map(np.array, state)
      placed = jax.tree.map(lambda x: x.sharding, state)
      _, metrics = step(state, *batch)
      check(number + 1, metrics)
      return jax.device_put(kept, placed)
    if saver and saver.is_due():
      saver.write(state)
  return state


def _check_finite(
    step: int, epoch: float, values: dict[str, float], checkpoint: str | None
) -> None:
  if math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]):
    return
  kept = (
      f"the last good checkpoint is {checkpoint}"
      if checkpoint
      else "there is no checkpoint yet"
  )
  raise NotFiniteError(
      f"step {step} (epoch {epoch:.2f}, epsilon {values['epsilon']:.4g}) has"
      f" loss {values['loss']:g} and gradient norm"
      f" {values['gradient_norm']:g}; the largest bound was"
      f" {values['largest_bound']:.3g}; {kept}; try a lower"
      f" optimizer.learning_rate or a slower schedule in the goal"
  )


class _Summary:
  """Sums up the metrics of the steps between two rows."""

  def __init__(self, length: Length, epoch_rows: bool):
    self._length = length
    self._epoch_rows = epoch_rows
    self._since = time.monotonic()
    self._steps = []

  def add(self, number: int, values: dict[str, float]) -> dict | None:
    """Adds a step; returns a row if one is due, or it is the last step."""
    self._steps.append(values)
    elapsed = time.monotonic() - self._since
    if self._epoch_rows:
      due = number % self._length.per_epoch == 0
    else:
      due = elapsed >= _SECONDS_BETWEEN_ROWS
    if not due and number != self._length.total:
      return None
    row = {}
    names = dict.fromkeys(name for step in self._steps for name in step)
    for name in names:
      # Parts of weight 0 are left out of a step, and so is what they measure.
      column = [step[name] for step in self._steps if name in step]
      largest = name in ("epsilon", "largest_bound")
      row[name] = max(column) if largest else sum(column) / len(column)
    examples = len(self._steps) * self._length.batch_size
    row["examples_per_second"] = examples / max(elapsed, 1e-9)
    self._since, self._steps = time.monotonic(), []
    return row
