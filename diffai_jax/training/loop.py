"""The loop of training: steps, their metrics, and what ends it.

It knows steps, batches and states. Where a config comes from, who watches and
where a work folder is, it is told by functions.
"""

from collections.abc import Callable, Iterator
import collections
import contextlib
import dataclasses
import itertools
import math
import time

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from diffai_jax.data import prefetched
from diffai_jax.kernels import platforms
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState
from diffai_jax.training.step import Step
from diffai_jax.types import AXIS, Array, UsageError

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


@dataclasses.dataclass(frozen=True)
class Groups:
  """Steps that go into one dispatch.

  Attributes:
    size: how many.
    fit: whether one program takes as many from the state after so many steps.
    step_at: that program: images [devices, size, b, ...], labels likewise, and
      metrics [size].
  """

  size: int
  fit: Callable[[int], bool]
  step_at: Callable[[int], Step]


def run(
    state: TrainState,
    length: Length,
    step_at: Callable[[int], Step],
    stream: Iterator[tuple[np.ndarray, np.ndarray]],
    report: Callable[[int, dict[str, float]], None],
    *,
    groups: Groups | None = None,
    measure: Callable[[int, TrainState], dict] = lambda number, state: {},
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
    stream: batches (images, labels) from the state's step on. Where a thread
      reads ahead, it is the thread that reads it.
    report: is given rows: (number of the step, values by name). Values are means
      over the steps since the last row, of `epsilon` and `largest_bound` the
      largest; with `epoch` and `examples_per_second`. The last step has one.
    groups: steps that may go together. They do within an epoch; at its end, and
      at the run's, what is left goes one by one. None is no groups.
    measure: is given the state after so many steps, wherever a dispatch ends,
      and returns further metrics of the last step, arrays by name.
    saver: of checkpoints; it has confirmed or written the state given. None
      saves nothing.
    stopped: looked at after each dispatch; the run ends there when it is true.
    epoch_rows: whether the end of each epoch has a row; otherwise there is one
      every two seconds.

  Returns:
    The last state; its `step` is below length.total if the run was stopped.

  Raises:
    NotFiniteError: if a loss or gradient is not finite.
  """
  number = int(state.step)
  queued = platforms.queued_dispatches()
  apart = platforms.here().memory_apart
  pending = collections.deque()  # (first step, steps, metrics) under way.
  summary = _Summary(length, epoch_rows)

  def check(number: int, values: dict[str, float]) -> None:
    """Looks at a step's metrics; the state before it is good if they are."""
    _check_finite(number, number / length.per_epoch, values, saver)
    if saver:
      saver.confirm(number - 1)

  def look(until: int) -> None:
    """Checks and reports metrics until at most `until` are under way."""
    while len(pending) > until:
      first, count, metrics = pending.popleft()
      for number, values in enumerate(_by_step(count, *metrics), first):
        check(number, values)
        row = summary.add(number, values)
        if row is not None:
          report(number, {"epoch": number / length.per_epoch} | row)

  dispatches = prefetched(
      _reader(stream), _counts(number, length, groups),
      platforms.here().batches_ahead,
  )
  with contextlib.closing(dispatches):
    upcoming = next(dispatches, None)
    while upcoming is not None:
      count, batch = upcoming
      step = groups.step_at(number) if count > 1 else step_at(number)
      state, metrics = step(state, *batch)
      number += count
      metrics = metrics, measure(number, state)
      if apart:
        for array in jax.tree.leaves(metrics):
          array.copy_to_host_async()
      pending.append((number - count + 1, count, metrics))
      upcoming = next(dispatches, None)  # On the host, while the step runs.
      look(queued)
      if number == length.total or stopped():
        look(0)
        # It takes the state's memory; there is a copy on the host.
        kept = saver.write(state) if saver else jax.tree.map(np.array, state)
        placed = jax.tree.map(lambda x: x.sharding, state)
        _, metrics = step(state, *batch)
        check(number + 1, _by_step(count, metrics, {})[0])
        return jax.device_put(kept, placed)
      if saver and saver.is_due():
        saver.write(state)
  return state


def _counts(
    number: int, length: Length, groups: Groups | None
) -> Iterator[int]:
  """How many steps each dispatch takes, from the state after so many steps."""
  while number < length.total:
    epoch_end = (number // length.per_epoch + 1) * length.per_epoch
    left = min(epoch_end, length.total) - number
    together = groups and groups.size <= left and groups.fit(number)
    count = groups.size if together else 1
    yield count
    number += count


def _reader(stream: Iterator) -> Callable[[int], tuple[Array, Array]]:
  """Makes the batches of a dispatch of so many steps.

  They are split over this process's devices on axis 0, and transferred to those
  that have a memory of their own.
  """
  devices = jax.local_device_count()
  placed = None
  if platforms.here().memory_apart:
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    placed = NamedSharding(mesh, PartitionSpec(AXIS))
  wide = jax.config.jax_enable_x64  # Of this thread.

  def split(arrays: list[np.ndarray]) -> Array:
    shape = (devices, len(arrays[0]) // devices)
    pieces = [x.reshape(shape + x.shape[1:]) for x in arrays]
    whole = pieces[0] if len(pieces) == 1 else np.stack(pieces, axis=1)
    if placed is None:
      return whole
    with jax.enable_x64(wide):
      return jax.device_put(whole, placed)

  def read(count: int) -> tuple[Array, Array]:
    images, labels = zip(*itertools.islice(stream, count))
    return split(images), split(labels)

  return read


def _by_step(count: int, metrics: dict, of_last: dict) -> list[dict]:
  """The metrics of each step of a dispatch as numbers; waits for it.

  Args:
    count: of steps.
    metrics: of all of them: scalars of a single step, [count] of several.
    of_last: scalars, of the last one alone.
  """
  # NumPy reads an array in a fifth of the time that float() and device_get take.
  columns = {
      name: np.asarray(v).reshape(-1).tolist() for name, v in metrics.items()
  }
  steps = [
      {name: column[place] for name, column in columns.items()}
      for place in range(count)
  ]
  steps[-1] |= {name: np.asarray(v).item() for name, v in of_last.items()}
  return steps


def _check_finite(
    step: int, epoch: float, values: dict[str, float], saver: Saver | None
) -> None:
  if math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]):
    return
  checkpoint = saver.latest() if saver else None
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
