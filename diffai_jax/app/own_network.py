"""Networks of the user's own in a config: "package.module:Class" and "net.onnx"."""

import importlib
import inspect
import math
import os
from typing import Any

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.data import Dataset
from diffai_jax.graph import Builder, Graph, from_onnx, simplify
from diffai_jax.networks import (
    PlainNetwork,
    canonical_name,
    network_of_graph,
    takes_mode,
)
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, reason, shown

_ONNX = ".onnx"


def is_own(name: Any) -> bool:
  """Whether config.network names no network of this package."""
  return isinstance(name, str) and (is_onnx(name) or ":" in name)


def is_onnx(name: Any) -> bool:
  """Whether config.network is a file that has weights, too."""
  return isinstance(name, str) and name.lower().endswith(_ONNX)


def checked_name(name: Any) -> str:
  """config.network in the one form that it is compared in.

  Raises:
    UsageError: if it names no network.
  """
  if is_onnx(name):
    return os.path.abspath(checked_path(name, "config.network"))
  return name if is_own(name) else canonical_name(name)


def create(name: str, data: Dataset) -> nn.Module:
  """The network that such a name stands for, called as network(value, mode).

  A class is called with those of num_classes, mean and std that it takes, the
  dataset's. An ONNX file is given images in its own layout: [C, H, W], or their
  pixels in that order; its weights are where training starts.

  Args:
    name: as `checked_name` gives it.
    data: what the network is for.

  Raises:
    UsageError: in one line, if there is no such file or class, it cannot be made,
      or it does not fit the dataset.
  """
  if is_onnx(name):
    graph = _in_our_layout(from_onnx(name), data.image_shape, name)
    if graph.output_shape != (data.num_classes,):
      raise UsageError(
          f"{name} gives {list(graph.output_shape)} for an image, but the dataset"
          f" has {data.num_classes} classes; choose the dataset that it is for"
      )
    return network_of_graph(graph)[0]
  made = _made(name, data)
  return made if takes_mode(made) else PlainNetwork(made)


def _made(name: str, data: Dataset) -> nn.Module:
  """The module that "package.module:Class" names."""
  place, _, attribute = name.partition(":")
  try:
    found = importlib.import_module(place)
  except (ImportError, ValueError, SyntaxError) as error:
    raise UsageError(
        f"config.network is {shown(name)}, but {place!r} cannot be imported"
        f" ({reason(error)}); expected package.module:Class, found from the folder"
        f" that the command runs in"
    ) from None
  for part in attribute.split("."):
    found = getattr(found, part, None)
  if not callable(found):
    known = ", ".join(
        key for key, value in vars(importlib.import_module(place)).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    )
    raise UsageError(
        f"config.network is {shown(name)}, but {place} has no {attribute!r};"
        f" its Flax modules: {known or 'none'}"
    )
  given = {
      "num_classes": data.num_classes,
      "mean": data.mean or (0.0,), "std": data.std or (1.0,),
  }
  try:
    takes = inspect.signature(found).parameters
    made = found(**{key: v for key, v in given.items() if key in takes})
  except (TypeError, ValueError) as error:
    raise UsageError(
        f"{name} cannot be made ({reason(error)}); it is called with those of"
        f" {', '.join(given)} that it takes, so others need defaults"
    ) from None
  if not isinstance(made, nn.Module):
    raise UsageError(
        f"{name} gives {shown(made)}; expected a Flax module (flax.linen)"
    )
  return made


def _in_our_layout(graph: Graph, shape: tuple[int, ...], name: str) -> Graph:
  """The graph of images [H, W, C], as datasets have them."""
  if graph.input_shape == shape:
    return graph
  builder = Builder(shape, graph.dtype)
  x = builder.input
  if math.prod(shape) != math.prod(graph.input_shape):
    raise UsageError(
        f"{name} takes {list(graph.input_shape)}, but the dataset's images are"
        f" {list(shape)}; choose the dataset that it is for"
    )
  if len(shape) == 3:
    x = transformers.transpose(x, (2, 0, 1))
  x = transformers.reshape(x, graph.input_shape)
  return simplify(builder.graph(graph(x)))
