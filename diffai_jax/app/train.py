"""Training, from a config to the results on disk."""

import collections
import dataclasses
import functools
import math
import os
import time

import jax
from ml_collections import config_dict

from diffai_jax.app import certify_run, console, interrupts, workfolder
from diffai_jax.app.job import Job
from diffai_jax.data import Examples, batches, load
from diffai_jax.goals import active_at
from diffai_jax.networks import describe, normalises
from diffai_jax.training import checkpoints
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.training.step import batch_key
from diffai_jax.types import UsageError, shown

# Steps that may be under way before the oldest one's metrics are looked at.
_STEPS_AHEAD = 4
_SECONDS_BETWEEN_METRICS = 2.0
_MOST_STEPS = 2**31 - 1  # Steps are counted in int32.


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
  _check_batch(job, train_data)
  certify_run.check_memory(job)
  with workfolder.held(workdir):
    config.checkpoint = _start_of(config, workdir)
    record = workfolder.claim(workdir, config)
    job = dataclasses.replace(
        job, first_epochs=workfolder.first_epochs(record)
    )
    _print_plan(job, description, train_data, test_data, workdir)
    state, unsaved = _train(job, train_data, workdir, record)
    with interrupts.told(
        "while certifying; the network is trained and saved, and the same"
        " command goes on"
    ):
      certify_run.certify_state(job, state, test_data, workdir)
  if unsaved:
    raise UsageError(unsaved)


def _print_plan(job: Job, description, train_data, test_data, workdir) -> None:
  """Prints what will be done."""
  config = job.config
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
  ])
  console.print_path("work folder", workdir)
  late = job.warning()
  if late:
    console.print_warning(late)


def _start_of(config: config_dict.ConfigDict, workdir: str) -> str | None:
  """The checkpoint of another run to begin from, as a whole path, or None.

  Raises:
    UsageError: if config.checkpoint names none.
  """
  if not config.checkpoint:
    return None
  ours = os.path.realpath(os.path.expanduser(workdir))
  if os.path.realpath(checkpoints.run_of(config.checkpoint)) == ours:
    return None  # Its own newest checkpoint is where it goes on anyway.
  full = os.path.abspath(os.path.expanduser(config.checkpoint))
  if not checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER)):
    checkpoints.resolve(full)
  return full


def _train(
    job: Job, data: Examples, workdir: str, record: dict
) -> tuple[TrainState, str | None]:
  """Runs all steps that are not done yet.

  Args:
    job: what to train.
    data: the training images.
    workdir: the work folder, held and claimed.
    record: the config that it was claimed with.

  Returns:
    The last state; and why it could not be saved, or None.
  """
  config = job.config
  steps_per_epoch = len(data) // config.batch_size
  total = math.ceil(config.epochs * steps_per_epoch)

  state, path = _first_state(job, steps_per_epoch, workdir)
  first = int(state.step)
  if first:
    console.console.print(f"going on from step {first} of {total}")
  # Where a weight is 0 its part is left out: one program for each objective.
  goal_at = active_at(
      job.goal,
      lambda steps: job.epoch_of(steps, steps_per_epoch),
      lambda step: batch_key(config.seed, step),
  )

  step_of = functools.cache(lambda goal: job.make_step(goal, steps_per_epoch))
  devices = jax.local_device_count()
  forced_devices = devices > 1 and jax.default_backend() == "cpu"
  ahead = 0 if forced_devices else _STEPS_AHEAD
  stream = batches(data, config.batch_size, config.seed, first)
  pending = collections.deque()  # (step, metrics) of steps under way.
  summary = _Summary(config.batch_size)
  saver = Saver(
      checkpoints.Keeper(workdir, record, path), config.checkpoint_minutes,
      console.print_warning,
  )

  with (
      interrupts.deferred("after training; the same command certifies"),
      saver.keeper,
      MetricsWriter(workdir, first + 1, console.print_warning) as writer,
      console.progress_bar("training", total, "steps", first) as show,
  ):

    def check(number: int, metrics: dict) -> dict[str, float]:
      """The metrics of a step; the state before it is good if they are."""
      values = {name: float(v) for name, v in metrics.items()}
      epoch = number / steps_per_epoch
      _check_finite(number, epoch, values, saver.keeper.latest)
      saver.confirm(number - 1)
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

    if path is None:
      # Before the first hour is spent: what cannot be saved is not begun.
      saver.write(state, must=True)
      if not total:
        saver.confirm(0)
    for number in range(first + 1, total + 1):
      images, labels = next(stream)
      shape = (devices, len(labels) // devices)
      batch = images.reshape(shape + images.shape[1:]), labels.reshape(shape)
      step = step_of(goal_at(number - 1))
      state, metrics = step(state, *batch)
      pending.append((number, metrics))
      look(ahead)
      stopped = interrupts.requested()
      if number == total or stopped:
        look(0)
        # No step comes that would show that this state can go on, so one is
        # tried. It takes the state's memory; there is a copy on the host.
        kept = saver.write(state)
        placed = jax.tree.map(lambda x: x.sharding, state)
        _, metrics = step(state, *batch)
        check(number + 1, metrics)
        state = jax.device_put(kept, placed)
      elif saver.is_due():
        saver.write(state)
      if stopped and number < total:
        raise interrupts.Interrupted(stopped, saver.where(number, total))
  return state, saver.trouble


def _first_state(
    job: Job, steps_per_epoch: int, workdir: str
) -> tuple[TrainState, str | None]:
  """The state to go on from, and the checkpoint that it is in.

  It is the newest of the work folder; else a fresh one, which has the weights
  of config.checkpoint, and no checkpoint yet.
  """
  config = job.config
  fresh = create_state(
      job.network, job.optimizer(steps_per_epoch), job.dataset.image_shape,
      config.seed,
  )
  own = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  if own:
    found = checkpoints.restore(own, fresh)
  elif config.checkpoint:
    found = checkpoints.restore(
        checkpoints.resolve(config.checkpoint), fresh, weights_only=True
    )
  else:
    return fresh, None
  if found.warning:
    console.print_warning(found.warning)
  if own:
    return found.state, found.path
  console.console.print(f"beginning with the weights of {found.path}")
  return dataclasses.replace(found.state, step=fresh.step), None


def _check_batch(job: Job, data: Examples) -> None:
  config = job.config
  if config.batch_size > len(data):
    raise UsageError(
        f"batch_size is {config.batch_size}, but {config.dataset} has only"
        f" {len(data)} training images in {shown(config.train_split)}"
    )
  steps = config.epochs * (len(data) // config.batch_size)
  if steps > _MOST_STEPS:
    raise UsageError(
        f"epochs is {shown(config.epochs)}, which is {steps:.3g} steps; a run"
        f" has at most {_MOST_STEPS:,}; set it with --config.epochs="
    )
  devices = jax.device_count()
  parts = devices * config.accumulate
  if config.batch_size // config.accumulate < 2 and normalises(job.network):
    raise UsageError(
        f"batch_size is {config.batch_size} and accumulate {config.accumulate},"
        f" which leaves one image a part; {config.network} normalises, and one"
        f" image has no variance: expected two images a part or more; set one"
        f" of them with --config.batch_size="
    )
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
