"""Training, from a config to the results on disk."""

import collections
import functools
import math
import os
import time

import jax
import jax.numpy as jnp
from ml_collections import config_dict

from diffai_jax import certify_run, console, workfolder
from diffai_jax.data import Examples, batches, load
from diffai_jax.goals import phases
from diffai_jax.job import Job
from diffai_jax.networks import describe
from diffai_jax.training import checkpoints
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.training.step import batch_key
from diffai_jax.types import UsageError

# Steps that may be under way before the oldest one's metrics are looked at.
_STEPS_AHEAD = 4
_SECONDS_BETWEEN_METRICS = 2.0


class NotFiniteError(UsageError):
  """Training met a loss or gradient that is not finite."""


def train_and_certify(config: config_dict.ConfigDict, workdir: str) -> None:
  """Trains as the config says, goes on where a killed run was, and certifies.

  Raises:
    UsageError: if the config, the data or the work folder cannot be used.
    NotFiniteError: if training diverges.
  """
  job = Job.from_config(config)
  config = job.config
  description = describe(job.network, job.dataset.image_shape)

  # Data, before anything is written: a missing folder leaves no trace.
  train_data = load(config.dataset, config.train_split, config.data_dir)
  test_data = certify_run.test_data(config)
  _check_batch(config, train_data)
  certify_run.check_memory(job)
  workfolder.claim(workdir, config)

  # What will be done.
  devices = jax.devices()
  console.print_table(f"Training {config.network}", [
      ("network", f"{description.relus:,} ReLUs, {description.parameters:,}"
                  f" parameters, depth {description.depth}"),
      ("objective", str(job.goal)),
      ("epsilon", f"{config.epsilon:g}"),
      ("data", f"{config.dataset}, {len(train_data):,} training and"
               f" {len(test_data):,} test images"),
      ("run", f"{config.epochs:g} epochs of"
              f" {len(train_data) // config.batch_size} steps, batch"
              f" {config.batch_size}, seed {config.seed}"),
      ("devices", f"{len(devices)} {devices[0].platform}"),
      ("work folder", workdir),
  ])

  state = _train(job, train_data, workdir)
  certify_run.certify_state(job, state, test_data, workdir)


def _train(job: Job, data: Examples, workdir: str) -> TrainState:
  """Runs all steps that are not done yet; returns the last state."""
  config = job.config
  steps_per_epoch = len(data) // config.batch_size
  total = math.ceil(config.epochs * steps_per_epoch)

  state = create_state(
      job.network, job.optimizer(steps_per_epoch), job.dataset.image_shape,
      config.seed,
  )
  manager = checkpoints.open_manager(workdir)
  restored = checkpoints.restore(manager, state)
  if restored is not None:
    state = restored
    console.console.print(
        f"going on from step {int(state.step)} of {total}"
    )
  first = int(state.step)
  # Where a weight is 0 its part is left out: one program for each objective.
  numbers = jnp.arange(total + 1)
  objectives, which = phases(
      job.goal,
      job.epoch_of(numbers, steps_per_epoch),
      jax.vmap(batch_key, (None, 0))(config.seed, numbers),
  )

  step_of = functools.cache(lambda goal: job.make_step(goal, steps_per_epoch))
  devices = jax.local_device_count()
  forced_devices = devices > 1 and jax.default_backend() == "cpu"
  ahead = 0 if forced_devices else _STEPS_AHEAD
  stream = batches(data, config.batch_size, config.seed, first)
  pending = collections.deque()  # (step, metrics) of steps under way.
  summary = _Summary(config.batch_size)
  saved = time.monotonic()

  with (
      manager,
      MetricsWriter(workdir, first + 1) as writer,
      console.progress_bar("training", total, "steps", first) as show,
  ):

    def check(number: int, metrics: dict) -> dict[str, float]:
      values = {name: float(v) for name, v in metrics.items()}
      epoch = number / steps_per_epoch
      _check_finite(number, epoch, values, checkpoints.latest_path(manager))
      return values

    def look(until: int) -> None:
      """Checks and reports metrics until at most `until` are under way."""
      while len(pending) > until:
        number, metrics = pending.popleft()
        row = summary.add(check(number, metrics), number == total)
        if row is not None:
          row = {"epoch": number / steps_per_epoch} | row
          writer.write(number, row)
          show(number, _note(row))

    for number in range(first + 1, total + 1):
      images, labels = next(stream)
      shape = (devices, len(labels) // devices)
      batch = images.reshape(shape + images.shape[1:]), labels.reshape(shape)
      step = step_of(objectives[which[number - 1]])
      state, metrics = step(state, *batch)
      pending.append((number, metrics))
      look(ahead)
      last = number == total
      if last or time.monotonic() - saved > 60 * config.checkpoint_minutes:
        look(0)
        # Finite weights can still have a loss that is not: only a state that
        # could take another step is saved.
        _, metrics = step(jax.tree.map(jnp.copy, state), *batch)
        check(number + 1, metrics)
        checkpoints.save(manager, state)
        saved = time.monotonic()
    if not total:
      checkpoints.save(manager, state)
  return state


def _check_batch(config: config_dict.ConfigDict, data: Examples) -> None:
  if config.batch_size > len(data):
    raise UsageError(
        f"batch_size is {config.batch_size}, but {config.dataset} has only"
        f" {len(data)} training images in {config.train_split!r}"
    )
  devices = jax.device_count()
  parts = devices * config.accumulate
  if config.batch_size % parts:
    raise UsageError(
        f"batch_size is {config.batch_size}; expected a multiple of {parts}:"
        f" {devices} devices times accumulate={config.accumulate}"
    )


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


def _note(row: dict[str, float]) -> str:
  parts = [f"epoch {row['epoch']:.1f}", f"loss {row['loss']:.3f}"]
  for name in ("accuracy", "verified"):
    if name in row:
      parts.append(f"{name} {row[name]:.3f}")
  parts.append(f"{row['examples_per_second']:,.0f}/s")
  return "  ".join(parts)


class _Summary:
  """Sums up the metrics of the steps between two lines of metrics.jsonl."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._since = time.monotonic()
    self._steps = []

  def add(self, values: dict[str, float], last: bool) -> dict | None:
    """Adds a step; returns a line if one is due, or it is the last step.

    Means over the steps since the last line; of `epsilon` and `largest_bound`
    the largest value.
    """
    self._steps.append(values)
    elapsed = time.monotonic() - self._since
    if elapsed < _SECONDS_BETWEEN_METRICS and not last:
      return None
    row = {}
    names = dict.fromkeys(name for step in self._steps for name in step)
    for name in names:
      # Parts of weight 0 are left out of a step, and so is what they measure.
      column = [step[name] for step in self._steps if name in step]
      largest = name in ("epsilon", "largest_bound")
      row[name] = max(column) if largest else sum(column) / len(column)
    examples = len(self._steps) * self._batch_size
    row["examples_per_second"] = examples / max(elapsed, 1e-9)
    self._since, self._steps = time.monotonic(), []
    return row
