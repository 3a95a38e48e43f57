"""Training from Python: any network of our layers, on arrays."""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import json
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax import processes
from diffai_jax.app import console, network_file, schedule_warning, workfolder
from diffai_jax.app import train as app_train
from diffai_jax.app.arguments import (
    Arrays,
    as_value_errors,
    examples_of,
    job_of,
)
from diffai_jax.app.job import Job
from diffai_jax.app.run import Run, of_state
from diffai_jax.data import Examples, to_floats
from diffai_jax.data.arrays import checked_labels, checked_range
from diffai_jax.graph import Graph
from diffai_jax.goals import REGIONS, Context, Goal, ball
from diffai_jax.storage.paths import checked_path
from diffai_jax.training import metrics
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import Mode

_TEST_BATCH = 500  # Images that are measured at once.


def train(
    network: nn.Module | Graph | str,
    data: Arrays,
    *,
    abstract_layers: Mapping[str, Any] | None = None,
    goal: str | Goal = "Mix(Point, Box, Lin(0, 0.5, 60))",
    epsilon: float | str = 0.1,
    epochs: float = 40,
    batch_size: int | None = None,
    learning_rate: float | str = 1e-3,
    optimizer: Mapping[str, Any] | None = None,
    regularizers: Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    schedule_epochs: float | None = None,
    accumulate: int = 1,
    bfloat16: bool = False,
    seed: int = 0,
    data_range: tuple[float, float] | None = (0, 1),
    test: Arrays | None = None,
    workdir: str | os.PathLike | None = None,
    checkpoint_minutes: float = 5,
    checkpoints_kept: int = 2,
    progress: bool = True,
) -> Run:
  """Trains a network on arrays, on all devices of this process.

  The same arguments give the same weights. Nothing is written, unless there is a
  `workdir`.

  Args:
    network: any Flax module that gives logits [B, K]: of `diffai_jax.nn`'s layers,
      called as network(value, mode), or of plain ones, called as network(x), see
      docs/your_network.md; a graph, whose weights training starts from; or a name
      such as "ConvSmall", which becomes that network of the paper, with the labels'
      number of classes and the images' mean and deviation.
    data: (images, labels): images [N, ...] of any shape that the network takes,
      floats in `data_range`, or uint8, which become floats in [0, 1]; labels
      [N], integers from 0.
    abstract_layers: of a network of plain layers, abstract layers by the name of
      what they follow: {"Dense_0": nn.CorrelateAll(), "relu_1": ...}.
    goal: the objective, as text or as an object of `diffai_jax.goals`; see
      docs/objectives.md. Its schedules are in epochs.
    epsilon: radius of the input box, in the images' units; a number or a
      fraction such as "8/255".
    epochs: how many times the data are gone through.
    batch_size: images of a step, a multiple of the number of devices; None is
      128, or fewer where there are fewer.
    learning_rate: a number or a schedule such as "1e-3 * cosine(1, 40)".
    optimizer: other keys of the config's group `optimizer`, such as
      {"name": "sgd", "momentum": 0.9, "milestones": (30,), "l2": 1e-4}.
    regularizers: keys of the config's group, such as {"tightness": 0.5}.
    augment: keys of the config's group, for images [H, W, C]:
      {"crop_padding": 4, "flip": True}. Nothing by default.
    schedule_epochs: the epochs that the schedules are written for, if others
      than `epochs`.
    accumulate: in how many parts a batch is worked through, to save memory.
    bfloat16: whether layers multiply in bfloat16.
    seed: of the weights, of the order of the data and of random goals.
    data_range: lowest and highest value that data can have: input boxes end
      there. None for data without a range.
    test: (images, labels) that are measured at the end of each epoch: rows have
      `test_accuracy`, and `test_verified`, the share that interval bounds hold
      for within epsilon. It estimates; `certify` proves.
    workdir: a work folder for checkpoints and metrics, which `load` reads. After
      an interrupt (Ctrl-C, a notebook's stop: KeyboardInterrupt) or a kill the
      same call goes on from the last checkpoint.
    checkpoint_minutes: between two checkpoints.
    checkpoints_kept: how many of them, the newest ones.
    progress: whether a progress bar is shown.

  Returns:
    The run; its `metrics` have a row for each epoch.

  Raises:
    ValueError: in one line, if an argument or array cannot be used.
    NotFiniteError: if training diverges.

  >>> import numpy as np
  >>> import diffai_jax as dj
  >>> random = np.random.default_rng(0)
  >>> images = random.random((200, 4)).astype(np.float32)
  >>> labels = (images[:, 0] > images[:, 1]).astype(int)
  >>> network = dj.nn.Sequential([dj.nn.Linear(8), dj.nn.ReLU(), dj.nn.Linear(2)])
  >>> run = dj.train(network, (images, labels), goal="Mix(Point, Box, 0.5)",
  ...                epsilon=0.02, learning_rate=0.05, progress=False)
  >>> run.metrics[-1]["accuracy"] > 0.9
  True
  >>> len(run.metrics), run.config.epsilon
  (40, 0.02)
  """
  with as_value_errors():
    data_range = checked_range(data_range)
    examples = examples_of(data, data_range, "data", "images", "labels")
    shape = examples.images.shape[1:]
    if test is not None:
      test = examples_of(
          test, data_range, "test", "test images", "test labels", shape
      )
    job = job_of(
        network, abstract_layers, examples, goal, data_range, augment,
        dict(
            epsilon=epsilon, epochs=epochs, batch_size=batch_size,
            schedule_epochs=schedule_epochs, accumulate=accumulate,
            bfloat16=bfloat16, seed=seed,
            checkpoint_minutes=checkpoint_minutes,
            checkpoints_kept=checkpoints_kept,
        ),
        {"learning_rate": learning_rate} | dict(optimizer or {}),
        dict(regularizers or {}),
    )
    for part, name in ((examples, "labels"), (test, "test labels")):
      if part:
        classes = job.dataset.num_classes
        checked_labels(part.labels, len(part), classes, name=name)
  late = schedule_warning.warning(job.config, job.goal, job.network)
  if late:
    console.print_warning(late.replace("--config.", ""))
  also = {"measure": _measured(job, test, len(examples))} if test else {}
  if workdir is not None:
    with as_value_errors():
      workdir = checked_path(os.fspath(workdir), "workdir")
    return _train_in(workdir, job, examples, progress, also)
  state = create_state(
      job.network, job.optimizer(len(examples) // job.config.batch_size),
      job.dataset.image_shape, job.config.seed,
  )
  rows = []
  state = _steps(
      job, examples, state, lambda step, row: rows.append({"step": step} | row),
      progress, **also,
  )
  return _run(job, state, rows)


def _measured(job: Job, test: Examples, examples: int) -> Callable:
  """What measures the test images at the end of each epoch."""
  steps_per_epoch = examples // job.config.batch_size
  total = app_train.total_steps(job.config, examples)
  epsilon, data_range = job.config.epsilon, job.data_range
  box = REGIONS["Box"]

  @jax.jit
  def counts(variables, images, labels):
    images = to_floats(images)
    logits = job.network.apply(variables, images, Mode.CONCRETE)
    context = Context(
        forward=None, labels=labels, epoch=jnp.zeros(()),
        data_range=data_range, images=images,
    )
    bounds = ball(images, epsilon, data_range)
    output = job.network.apply(
        variables, box.abstract(*bounds, context), Mode.CERTIFY
    )
    holds = box.accuracies(output, labels, context)[box.measures]
    right = jnp.argmax(logits, axis=-1) == labels
    return jnp.stack([jnp.sum(right), jnp.sum(holds)])

  def measure(number: int, state: TrainState) -> dict:
    if number % steps_per_epoch and number != total:
      return {}
    found = sum(
        counts(
            state.variables, test.images[start : start + _TEST_BATCH],
            test.labels[start : start + _TEST_BATCH],
        )
        for start in range(0, len(test), _TEST_BATCH)
    ) / len(test)
    return {"test_accuracy": found[0], "test_verified": found[1]}

  return measure


def _steps(
    job: Job, examples: Examples, state: TrainState, report: Callable,
    progress: bool, **options,
) -> TrainState:
  """Takes all steps that are left, with a progress bar."""
  total = app_train.total_steps(job.config, len(examples))
  bar = (
      console.progress_bar("training", total, "steps", int(state.step))
      if progress else contextlib.nullcontext(lambda number, note: None)
  )
  with bar as show:

    def report_and_show(number: int, row: dict) -> None:
      report(number, row)
      show(number, app_train.note(row))

    return app_train.take_steps(
        job, examples, state, report_and_show, epoch_rows=True, **options
    )


def _train_in(
    workdir: str, job: Job, examples: Examples, progress: bool, also: dict
) -> Run:
  """Trains in a work folder, and goes on where it was."""
  stored = network_file.Stored(
      job.network, job.dataset.image_shape, job.data_range
  )
  with workfolder.held(workdir):
    record = app_train.claimed(workdir, job.config, stored)
    job = dataclasses.replace(
        job, first_epochs=workfolder.first_epochs(record)
    )
    state, path = app_train.first_state(
        job, len(examples) // job.config.batch_size, workdir
    )
    finished = not app_train.total_steps(job.config, len(examples))
    with app_train.recorded(
        job, workdir, record, state, path, finished
    ) as (saver, write):
      state = _steps(
          job, examples, state, write, progress, saver=saver, **also
      )
    rows = processes.by_first(lambda: metrics.read(workdir))
    return _run(job, state, rows)


def _run(job: Job, state: TrainState, rows: list) -> Run:
  return of_state(
      job.network, state, json.loads(job.config.to_json()), rows, {},
      job.data_range, job.dataset.image_shape,
  )
