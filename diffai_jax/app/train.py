"""Training, from a config to the results on disk."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import math
import os

import jax

from diffai_jax import processes
from diffai_jax.app import (
    certify_run,
    config_dict,
    console,
    data_keys,
    interrupts,
    network_file,
    several,
    workfolder,
)
from diffai_jax.app.job import Job
from diffai_jax.data import DATASETS, Examples, batches, load
from diffai_jax.goals import active_at
from diffai_jax.kernels import platforms, xla
from diffai_jax.networks import describe, normalises
from diffai_jax.storage import sealed, store
from diffai_jax.training import checkpoints, loop
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.training.step import batch_key
from diffai_jax.types import UsageError, shown

_AFTER_TRAINING = "after training; the same command certifies"
_MOST_STEPS = 2**31 - 1  # Steps are counted in int32.


def train_and_certify(config: config_dict.ConfigDict, workdir: str) -> None:
  """Trains as the config says, goes on where a killed run was, and certifies.

  Of several processes every one calls it; the first one alone writes.

  Raises:
    UsageError: if the config, the data or the work folder cannot be used.
    loop.NotFiniteError: if training diverges.
  """
  job = Job.from_config(config)
  config = job.config
  several.require_same_config(config)
  description = describe(job.network, job.dataset.image_shape)

  # Data, before anything is written: a missing folder leaves no trace.
  train_data, test_data = several.loaded(
      lambda: load(
          config.dataset, config.train_split, config.data_dir, job.data_range
      ),
      lambda: certify_run.test_data(config),
  )
  check_batch(job, train_data)
  certify_run.check_memory(job)
  with workfolder.held(workdir):
    config.checkpoint = processes.by_first(lambda: _start_of(config, workdir))
    of_users = config.dataset not in DATASETS
    of_data = None
    if of_users:
      of_data = sealed.digest_of_arrays(
          [train_data.images, train_data.labels]
      )[:12]
    stored = None
    if of_users:  # So that the run can be loaded where its data are not.
      stored = network_file.Stored(
          job.network, job.dataset.image_shape, job.data_range
      )
    record = claimed(workdir, config, stored, of_data)
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
  console.print_table(f"Training {config.network}", [
      ("network", f"{description.relus:,} ReLUs, {description.parameters:,}"
                  f" parameters, depth {description.depth}"),
      ("objective", str(job.goal)),
      ("epsilon", f"{config.epsilon:g}"),
      ("data", f"{config.dataset}, {len(train_data):,} training and"
               f" {len(test_data):,} test images"
               f" {list(job.dataset.image_shape)} of {job.dataset.num_classes}"
               f" classes"),
      ("run", f"{config.epochs:g} epochs of"
              f" {len(train_data) // config.batch_size} steps, batch"
              f" {config.batch_size}, seed {config.seed}"),
      ("devices", _devices()),
  ])
  console.print_path("work folder", workdir)
  told = data_keys.advice(job.dataset, config.dataset, train_data)
  for warning in filter(None, (told, job.warning())):
    console.print_warning(warning)
  if config.remat and not xla.computes_anew():
    console.print_warning(
        "remat will save no memory: XLA computes each stage once and keeps it"
        " all the same, because it was not given, or does not know,"
        " --xla_disable_hlo_passes=cse_barrier_expander; take"
        " --config.accumulate= instead"
    )


def _devices() -> str:
  told = f"{jax.device_count()} {platforms.platform_name()}"
  if processes.count() > 1:
    told += f" of {processes.count()} processes"
  return told


def claimed(
    workdir: str, config: config_dict.ConfigDict,
    stored: network_file.Stored | None, data: str | None = None,
) -> dict:
  """As `workfolder.claim`, in all processes; the first one alone writes.

  Args:
    workdir, config, data: as `workfolder.claim` takes them.
    stored: is written to the folder, too.
  """

  def claim() -> dict:
    record = workfolder.claim(workdir, config, data)
    if stored is not None:
      network_file.write(workdir, stored)
    return record

  return processes.by_first(claim)


def _start_of(config: config_dict.ConfigDict, workdir: str) -> str | None:
  """The checkpoint of another run to begin from, as a whole path, or None.

  Raises:
    UsageError: if config.checkpoint names none.
  """
  if not config.checkpoint:
    return None
  if store.is_same(checkpoints.run_of(config.checkpoint), workdir):
    return None  # Its own newest checkpoint is where it goes on anyway.
  full = store.absolute(config.checkpoint)
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
  total = total_steps(config, len(data))
  state, path = first_state(job, len(data) // config.batch_size, workdir)
  first = int(state.step)
  if first:
    console.console.print(f"going on from step {first} of {total}")
  stop = processes.Stop(interrupts.requested, platforms.queued_dispatches())

  with (
      interrupts.deferred(_AFTER_TRAINING),
      recorded(job, workdir, record, state, path, not total) as (saver, write),
      console.progress_bar("training", total, "steps", first) as show,
  ):

    def report(number: int, row: dict[str, float]) -> None:
      write(number, row)
      show(number, note(row))

    state = take_steps(job, data, state, report, saver=saver, stopped=stop)
    number = int(state.step)
    if number < total:
      where = processes.by_first(lambda: saver.where(number, total))
      raise interrupts.Interrupted(stop.signal, where)
    if saver:
      saver.finish()
    if stop.at_end() is not None:
      raise interrupts.Interrupted(stop.signal, _AFTER_TRAINING)
  return state, processes.by_first(lambda: saver.trouble)


@contextlib.contextmanager
def recorded(
    job: Job, workdir: str, record: dict, state: TrainState, path: str | None,
    finished: bool,
) -> Iterator[tuple[Saver | None, Callable[[int, dict[str, float]], None]]]:
  """The checkpoints and metrics of a run, which the first process writes.

  Args:
    job: what is trained.
    workdir: the work folder, held and claimed.
    record: the config that it was claimed with.
    state: to go on from; it is saved, if it is in no checkpoint.
    path: the checkpoint that it is in, or None.
    finished: whether no step follows.

  Yields:
    The saver, and a function that writes a row; in other processes None, and
    one that does nothing.

  Raises:
    UsageError: in all processes, if the folder cannot be written.
  """
  with contextlib.ExitStack() as stack:

    def begin() -> tuple[Saver, MetricsWriter]:
      config = job.config
      saver = stack.enter_context(Saver(
          checkpoints.Keeper(workdir, record, path, config.checkpoints_kept),
          config.checkpoint_minutes, console.print_warning,
      ))
      writer = stack.enter_context(MetricsWriter(
          workdir, int(state.step) + 1, console.print_warning
      ))
      saver.before_confirm = writer.flush
      if path is None:
        saver.begin(state, last=finished)
      return saver, writer

    if processes.is_first():
      saver, writer = processes.together(begin)
      yield saver, writer.write
    else:
      processes.together(lambda: None)
      yield None, lambda number, row: None


def take_steps(
    job: Job,
    data: Examples,
    state: TrainState,
    report: Callable[[int, dict[str, float]], None],
    **options,
) -> TrainState:
  """Takes the steps that a job has left.

  Args:
    job: what to train.
    data: the training images.
    state: to go on from.
    report: is given the rows of metrics.
    **options: of `loop.run`.

  Returns:
    The last state.
  """
  config = job.config
  steps_per_epoch = len(data) // config.batch_size
  # Where a weight is 0 its part is left out: one program for each objective.
  goal_at = active_at(
      job.goal,
      lambda steps: job.epoch_of(steps, steps_per_epoch),
      lambda step: batch_key(config.seed, step),
  )
  step_of = functools.cache(
      lambda goal, *together: job.make_step(goal, steps_per_epoch, *together)
  )
  size = job.steps_per_dispatch(steps_per_epoch)
  groups = loop.Groups(
      size,
      lambda number: all(
          goal_at(later) == goal_at(number)
          for later in range(number + 1, number + size)
      ),
      lambda number: step_of(goal_at(number), size),
  )
  return loop.run(
      state,
      loop.Length(
          total_steps(config, len(data)), steps_per_epoch, config.batch_size
      ),
      lambda number: step_of(goal_at(number)),
      batches(data, config.batch_size, config.seed, int(state.step)),
      report,
      groups=groups if size > 1 else None,
      **options,
  )


def total_steps(config: config_dict.ConfigDict, examples: int) -> int:
  """How many steps a run has in all."""
  return math.ceil(config.epochs * (examples // config.batch_size))


def first_state(
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
  folder = os.path.join(workdir, checkpoints.FOLDER)
  found = checkpoints.restore_for_all(
      lambda: checkpoints.steps_of(folder), fresh
  )
  own = found is not None
  if not own and config.checkpoint:
    found = checkpoints.restore_for_all(
        lambda: checkpoints.resolve(config.checkpoint), fresh,
        weights_only=True,
    )
  if found is None:
    return fresh, None
  if found.warning:
    console.print_warning(found.warning)
  if own:
    return found.state, found.path
  console.console.print(f"beginning with the weights of {found.path}")
  return dataclasses.replace(found.state, step=fresh.step), None


def check_batch(job: Job, data: Examples) -> None:
  """Checks that batches can be made of the data and split.

  Raises:
    UsageError: if they cannot.
  """
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


def note(row: dict[str, float]) -> str:
  """What of a row of metrics stands beside the progress bar."""
  parts = [f"epoch {row['epoch']:.1f}", f"loss {row['loss']:.3f}"]
  for name in ("accuracy", "verified"):
    if name in row:
      parts.append(f"{name} {row[name]:.3f}")
  parts.append(f"{row['examples_per_second']:,.0f}/s")
  return "  ".join(parts)
