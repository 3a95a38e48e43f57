"""What the arguments of a training call amount to: examples, a config, a job."""

from collections.abc import Iterator, Mapping
import contextlib
import numbers
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.app import config_dict, network_file
from diffai_jax.app import train as app_train
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.app.job import Job
from diffai_jax.app.validation import epsilon_of, validate_values
from diffai_jax.data import Dataset, Examples, statistics
from diffai_jax.data.arrays import (
    checked_images,
    checked_labels,
    float32_images,
)
from diffai_jax.goals import Goal
from diffai_jax.graph import Graph
from diffai_jax.networks import (
    PlainNetwork,
    canonical_name,
    create,
    describe,
    network_of_graph,
    takes_mode,
)
from diffai_jax.nn import AbstractLayer
from diffai_jax.objectives import objective
from diffai_jax.storage import sealed
from diffai_jax.text.suggest import unknown_key
from diffai_jax.types import ArgumentError, UsageError, shown

_USUAL_BATCH = 128

Arrays = tuple[Any, Any]  # (images, labels), of NumPy or JAX.


@contextlib.contextmanager
def as_value_errors() -> Iterator[None]:
  """Makes ValueErrors of UsageErrors; arguments are not called flags."""
  try:
    yield
  except UsageError as error:
    if isinstance(error, ValueError):
      raise
    text = str(error).replace("--config.", "")
    raise ArgumentError(text, error.detail) from None


def examples_of(
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


def job_of(
    network: nn.Module | Graph | str,
    abstract_layers: Mapping[str, Any] | None,
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
    network = create(name, classes, *statistics(examples.images))
  else:
    name = None
  network = _as_network(network, abstract_layers or {})
  classes = _classes(network, shape)
  if isinstance(network, PlainNetwork):
    describe(network, shape)  # What cannot be read is told before training.
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
  known = sealed.digest_of_arrays([examples.images, examples.labels])
  config.dataset = f"arrays {known[:12]}"
  _set(config, "", values | {
      "goal": str(goal), "data_range": data_range or (),
  })
  _set(config, "optimizer.", optimizer)
  _set(config, "regularizers.", regularizers)
  _set(config, "augment.", {"crop_padding": 0, "flip": False} | chosen)
  validate_values(config, min(shape[:2]) if len(shape) == 3 else 1)
  with config.ignore_type():
    config.epsilon = epsilon_of(config)
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


def _batch_size(count: int, accumulate: Any) -> int:
  """The usual one; of few images all of them, as far as they can be split."""
  whole = isinstance(accumulate, int) and accumulate > 0
  parts = jax.device_count() * (accumulate if whole else 1)
  return max(min(_USUAL_BATCH, count) // parts, 1) * parts


def _as_network(
    given: Any, abstract_layers: Mapping[str, Any]
) -> nn.Module:
  """The module that is trained: called with a mode.

  Raises:
    ArgumentError: if it is neither a module nor a graph, or one of our layers that
      is given abstract layers.
  """
  if isinstance(given, Graph):
    given = network_of_graph(given)[0]
  if not isinstance(given, nn.Module):
    raise ArgumentError(
        f"network is {shown(given)}; expected a Flax module, such as"
        f" diffai_jax.nn.Sequential([...]), a graph, or the name of a network"
    )
  if not takes_mode(given):
    return PlainNetwork(given, _placed(abstract_layers))
  if abstract_layers:
    raise ArgumentError(
        f"abstract_layers is {shown(abstract_layers)}, but network takes a mode;"
        f" put the layers where they belong in it"
    )
  return given


def _placed(abstract_layers: Mapping[str, Any]) -> tuple:
  """Abstract layers by name, as `PlainNetwork` takes them."""
  placed = []
  for name, layers in abstract_layers.items():
    if not isinstance(layers, (list, tuple)):
      layers = (layers,)
    for layer in layers:
      if not isinstance(layer, AbstractLayer):
        raise ArgumentError(
            f"abstract_layers[{name!r}] has {shown(layer)}; expected abstract"
            f" layers, such as diffai_jax.nn.CorrelateAll()"
        )
    placed.append((name, tuple(layers)))
  return tuple(placed)


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
