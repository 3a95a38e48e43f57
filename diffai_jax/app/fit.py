"""Training from Python: any network of our layers, on arrays."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import inspect
import json
import numbers
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from diffai_jax.app import console, network_file, schedule_warning, workfolder
from diffai_jax.app import train as app_train
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.app.job import Job
from diffai_jax.app.run import Run, of_state
from diffai_jax.app.validation import epsilon_of, validate_values
from diffai_jax.data import Dataset, Examples, to_floats
from diffai_jax.data.arrays import (
    checked_images,
    checked_labels,
    checked_range,
    float32_images,
)
from diffai_jax.goals import Context, Goal, REGIONS, ball
from diffai_jax.networks import canonical_name, create
from diffai_jax.objectives import objective
from diffai_jax.storage import sealed
from diffai_jax.text.suggest import unknown_key
from diffai_jax.training import checkpoints, metrics
from diffai_jax.training.array_store import digest
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import ArgumentError, Mode, UsageError, shown

_USUAL_BATCH = 128
_TEST_BATCH = 500  # Images that are measured at once.
_MOST_EPSILON = 1e38  # Where data have no range.

Arrays = tuple[Any, Any]  # (images, labels), of NumPy or JAX.


def train(
    network: nn.Module | str,
    data: Arrays,
    *,
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
    progress: bool = True,
) -> Run:
  """Trains a network on arrays, on all devices of this process.

  The same arguments give the same weights. Nothing is written, unless there is a
  `workdir`.

  Args:
    network: a module of `diffai_jax.nn`'s layers, called as network(value, mode);
      or a name such as "ConvSmall", which becomes that network of the paper,
      with the labels' number of classes and the images' mean and deviation.
    data: (images, labels): images [N, ...] of any shape that the network takes,
      floats in `data_range`, or uint8, which become floats in [0, 1]; labels
      [N], integers from 0.
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
  with _as_value_errors():
    data_range = checked_range(data_range)
    examples = _examples(data, data_range, "data", "images", "labels")
    shape = examples.images.shape[1:]
    if test is not None:
      test = _examples(
          test, data_range, "test", "test images", "test labels", shape
      )
    job = _job(
        network, examples, goal, data_range, augment,
        dict(
            epsilon=epsilon, epochs=epochs, batch_size=batch_size,
            schedule_epochs=schedule_epochs, accumulate=accumulate,
            bfloat16=bfloat16, seed=seed,
            checkpoint_minutes=checkpoint_minutes,
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
  around = _measured(job, test, len(examples)) if test else _unchanged
  if workdir is not None:
    return _train_in(os.fspath(workdir), job, examples, around, progress)
  state = create_state(
      job.network, job.optimizer(len(examples) // job.config.batch_size),
      job.dataset.image_shape, job.config.seed,
  )
  rows = []
  state = _steps(
      job, examples, state, lambda step, row: rows.append({"step": step} | row),
      around, progress,
  )
  return _run(job, state, rows)


@contextlib.contextmanager
def _as_value_errors() -> Iterator[None]:
  """Makes ValueErrors of UsageErrors; arguments are not called flags."""
  try:
    yield
  except UsageError as error:
    if isinstance(error, ValueError):
      raise
    text = str(error).replace("--config.", "")
    raise ArgumentError(text, error.detail) from None


def _examples(
    data: Arrays, data_range, what: str, images_name: str, labels_name: str,
    shape: tuple[int, ...] | None = None,
) -> Examples:
  """The arrays of a pair, checked."""
  if not isinstance(data, (tuple, list)) or len(data) != 2:
    raise ArgumentError(
        f"{what} is {shown(data)}; expected a pair of arrays (images, labels)"
    )
  images = checked_images(data[0], data_range, name=images_name, shape=shape)
  return Examples(
      float32_images(images, images_name),
      checked_labels(data[1], len(images), name=labels_name),
  )


def _job(
    network: nn.Module | str,
    examples: Examples,
    goal: str | Goal,
    data_range: tuple[float, float] | None,
    augment: Mapping | None,
    values: dict[str, Any],
    optimizer: dict[str, Any],
    regularizers: dict[str, Any],
) -> Job:
  """The config that arguments amount to, and what it stands for."""
  shape = examples.images.shape[1:]
  if isinstance(network, str):
    name = canonical_name(network)
    classes = int(examples.labels.max()) + 1
    network = create(name, classes, *_statistics(examples.images))
  else:
    name = None
  _check_network(network)
  classes = _classes(network, shape)
  chosen = dict(augment or {})
  if any(chosen.values()) and len(shape) != 3:
    raise ArgumentError(
        f"augment is {shown(chosen)}, but images have the shape"
        f" {list(examples.images.shape)}; only images [N, H, W, C] are cropped"
        f" and flipped"
    )
  if values["batch_size"] is None:
    values["batch_size"] = _batch_size(len(examples), values["accumulate"])
  config = base_config()
  config.network = name or _name_of(network)
  config.dataset = f"arrays {digest([examples.images, examples.labels])[:12]}"
  _set(config, "", values | {"goal": str(goal)})
  _set(config, "optimizer.", optimizer)
  _set(config, "regularizers.", regularizers)
  _set(config, "augment.", {"crop_padding": 0, "flip": False} | chosen)
  widest = _MOST_EPSILON
  if data_range is not None:
    widest = data_range[1] - data_range[0]
  validate_values(config, min(shape[:2]) if len(shape) == 3 else 1, widest)
  with config.ignore_type():
    config.epsilon = epsilon_of(config, widest)
  dataset = Dataset(
      shape, classes, (), (), config.epsilon, **config.augment.to_dict()
  )
  job = Job(
      config, dataset, network,
      goal if isinstance(goal, Goal) else objective(goal),
      data_range=data_range,
  )
  if config.batch_size > len(examples):
    raise ArgumentError(
        f"batch_size is {config.batch_size}, but there are only {len(examples)}"
        f" images"
    )
  app_train.check_batch(job, examples)
  return job


def _set(
    config: config_dict.ConfigDict, group: str, values: Mapping[str, Any]
) -> None:
  """Sets keys of a group; `validate_values` checks what they are.

  Raises:
    UsageError: if there is no such key.
  """
  holder = config[group.removesuffix(".")] if group else config
  for name, value in values.items():
    if not isinstance(name, str) or name not in holder:
      raise unknown_key(f"{group}{name}", keys_of(base_config()))
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
      value = value.tolist()
    elif isinstance(value, numbers.Integral) and not isinstance(value, bool):
      value = int(value)
    if isinstance(value, int) and type(holder[name]) is float:
      value = float(value)
    with holder.ignore_type():
      holder[name] = tuple(value) if isinstance(value, list) else value


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], ...]:
  """Mean and deviation of a channel; of images without channels, of all."""
  axes = tuple(range(images.ndim - 1)) if images.ndim == 4 else None
  values = images.astype(np.float64)
  if images.dtype == np.uint8:
    values = values / 255
  mean, std = (np.atleast_1d(f(values, axis=axes)) for f in (np.mean, np.std))
  std = np.where(std > 0, std, 1)
  return tuple(tuple(round(float(x), 6) for x in s) for s in (mean, std))


def _batch_size(count: int, accumulate: Any) -> int:
  """The usual one; of few images all of them, as far as they can be split."""
  whole = isinstance(accumulate, int) and accumulate > 0
  parts = jax.device_count() * (accumulate if whole else 1)
  return max(min(_USUAL_BATCH, count) // parts, 1) * parts


def _check_network(network: Any) -> None:
  """Raises ArgumentError unless it is a module called with a mode."""
  if not isinstance(network, nn.Module):
    raise ArgumentError(
        f"network is {shown(network)}; expected a Flax module, such as"
        f" diffai_jax.nn.Sequential([...]), or the name of a network"
    )
  try:
    inspect.signature(network.__call__).bind(None, Mode.TRAIN)
  except TypeError:
    raise ArgumentError(
        f"network is a {type(network).__name__}, which is not called as"
        f" network(value, mode); make it of diffai_jax.nn's layers, which are"
    ) from None


def _classes(network: nn.Module, shape: tuple[int, ...]) -> int:
  """The number of a network's outputs.

  Raises:
    UsageError: if it does not take images of that shape, or its outputs are no
      logits, or it has no weights.
  """
  images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  output, variables = jax.eval_shape(
      network.init_with_output, jax.random.key(0), images
  )
  if not jax.tree.leaves(variables.get("params", {})):
    raise ArgumentError("network has no weights, so nothing can be trained")
  if getattr(output, "ndim", 0) != 2:
    raise ArgumentError(
        f"network makes {shown(jax.tree.map(jnp.shape, output))} of one image of"
        f" shape {list(shape)}; expected logits, [1, number of classes]; a last"
        f" layer such as diffai_jax.nn.Linear(10) makes them"
    )
  return output.shape[1]


def _name_of(network: nn.Module) -> str:
  """What tells a network from others: its class, and digits of all it holds."""
  written = network_file.to_data(network) or str(network)
  return f"{type(network).__name__} {sealed.digest_of(written)[:8]}"


def _unchanged(number: int, step):
  return step


def _measured(job: Job, test: Examples, examples: int) -> Callable:
  """Makes steps that end an epoch measure the test images, too."""
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

  def around(number: int, step):
    if (number + 1) % steps_per_epoch and number + 1 != total:
      return step

    def measuring(state: TrainState, *batch):
      state, values = step(state, *batch)
      found = sum(
          counts(
              state.variables, test.images[start : start + _TEST_BATCH],
              test.labels[start : start + _TEST_BATCH],
          )
          for start in range(0, len(test), _TEST_BATCH)
      ) / len(test)
      return state, values | {
          "test_accuracy": found[0], "test_verified": found[1]
      }

    return measuring

  return around


def _steps(
    job: Job, examples: Examples, state: TrainState, report: Callable,
    around: Callable, progress: bool, **options,
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
        job, examples, state, report_and_show, around, epoch_rows=True,
        **options,
    )


def _train_in(
    workdir: str, job: Job, examples: Examples, around: Callable,
    progress: bool,
) -> Run:
  """Trains in a work folder, and goes on where it was."""
  stored = network_file.Stored(
      job.network, job.dataset.image_shape, job.data_range
  )
  with workfolder.held(workdir):
    record = workfolder.claim(workdir, job.config)
    job = dataclasses.replace(
        job, first_epochs=workfolder.first_epochs(record)
    )
    network_file.write(workdir, stored)
    state, path = app_train.first_state(
        job, len(examples) // job.config.batch_size, workdir
    )
    saver = Saver(
        checkpoints.Keeper(workdir, record, path),
        job.config.checkpoint_minutes, console.print_warning,
    )
    with (
        saver.keeper,
        MetricsWriter(
            workdir, int(state.step) + 1, console.print_warning
        ) as writer,
    ):
      if path is None:
        saver.write(state, must=True)
        if not app_train.total_steps(job.config, len(examples)):
          saver.confirm(0)
      state = _steps(
          job, examples, state, writer.write, around, progress, saver=saver
      )
    return _run(job, state, metrics.read(workdir))


def _run(job: Job, state: TrainState, rows: list) -> Run:
  return of_state(
      job.network, state, json.loads(job.config.to_json()), rows, {},
      job.data_range, job.dataset.image_shape,
  )
