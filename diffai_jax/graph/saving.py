"""A graph on disk: one .npz file, which holds arrays and a JSON text.

Nothing that is read is executed: a call names its transformer, which is looked up.
"""

import io
import json
import os
from typing import Any
import zipfile

import jax
import numpy as np

from diffai_jax.graph.building import Builder
from diffai_jax.graph.graph import Graph
from diffai_jax.storage import files
from diffai_jax.transformers import TRANSFORMERS, apply
from diffai_jax.types import UsageError, reason, shown

_TEXT = "graph"  # The name of the JSON text among the arrays.
_VERSION = 1


def save(graph: Graph, path: str | os.PathLike) -> None:
  """Writes a graph to a file, all or nothing.

  Args:
    graph: with known arrays.
    path: such as "net.npz".

  Raises:
    UsageError: if it cannot be written.
  """
  arrays = to_arrays(graph)
  buffer = io.BytesIO()
  np.savez_compressed(buffer, **arrays)
  with files.replacing(os.fspath(path), binary=True) as file:
    file.write(buffer.getvalue())


def load(path: str | os.PathLike) -> Graph:
  """The graph that `save` wrote.

  Raises:
    UsageError: in one line, if there is none, or it is damaged.
  """
  path = os.fspath(path)
  try:
    with np.load(path, allow_pickle=False) as found:
      return from_arrays(dict(found))
  except OSError as error:
    raise UsageError(
        f"cannot read {path} ({error.strerror or reason(error)}); give a file"
        f" that holds a graph"
    ) from None
  except (
      ValueError, KeyError, TypeError, IndexError, EOFError, RecursionError,
      zipfile.BadZipFile, UsageError,
  ) as error:
    raise UsageError(
        f"{path} holds no graph, or is damaged ({reason(error)})"
    ) from None


def to_arrays(graph: Graph) -> dict[str, np.ndarray]:
  """A graph as arrays by name; one of them is a JSON text."""
  arrays, calls = {}, []
  for number, call in enumerate(graph.calls):
    for parameter, array in call.arrays.items():
      if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
      arrays[f"{number}/{parameter}"] = np.asarray(array)
    calls.append({
        "transformer": call.transformer, "inputs": call.inputs,
        "arrays": list(call.arrays), "options": dict(call.options),
        "name": call.name,
    })
  text = json.dumps({
      "version": _VERSION, "calls": calls, "outputs": graph.outputs,
      "input_shape": graph.input_shape, "dtype": graph.dtype,
  })
  return arrays | {_TEXT: np.asarray(text)}


def from_arrays(arrays: dict[str, np.ndarray]) -> Graph:
  """The graph of `to_arrays`.

  Its calls are made anew, so shapes that do not fit are noticed.

  Raises:
    ValueError: or KeyError, TypeError, IndexError, UsageError, if it is none.
  """
  content = json.loads(str(arrays[_TEXT]))
  if content["version"] != _VERSION:
    raise ValueError(f"its version is {shown(content['version'])}")
  builder = Builder(_tuples(content["input_shape"]), content["dtype"])
  results = [builder.input]
  for number, call in enumerate(content["calls"]):
    name = call["transformer"]
    if name not in TRANSFORMERS:
      raise ValueError(f"there is no transformer {shown(name)}")
    own = {}
    for parameter in call["arrays"]:
      own[parameter] = arrays[f"{number}/{parameter}"]
      if parameter == "key":
        own[parameter] = jax.random.wrap_key_data(own[parameter])
    options = {key: _tuples(value) for key, value in call["options"].items()}
    inputs = tuple(results[_number(n, len(results))] for n in call["inputs"])
    with builder.named(str(call["name"])):
      results.append(apply(name, inputs, own, options))
  outputs = [results[_number(n, len(results))] for n in content["outputs"]]
  return builder.graph(*outputs)


def _number(value: Any, count: int) -> int:
  if type(value) is not int or not 0 <= value < count:
    raise ValueError(f"{shown(value)} is no earlier result")
  return value


def _tuples(value: Any) -> Any:
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
