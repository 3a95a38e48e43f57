"""network.json: a network of our layers as data, so that a run can be loaded.

Layers are written by their names, with those of their values that differ from
the defaults. Nothing that is read is executed: names are looked up in tables.
"""

from collections.abc import Mapping
import dataclasses
import inspect
import os
from typing import Any

from flax import linen as flax_nn

from diffai_jax import nn
from diffai_jax.data.arrays import checked_range
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.objectives import ObjectiveError, parse_value
from diffai_jax.schedules import Schedule
from diffai_jax.storage import files
from diffai_jax.types import UsageError, shown

FILE = "network.json"

_LAYERS: dict[str, type[flax_nn.Module]] = {
    name: getattr(nn, name)
    for name in nn.__all__
    if inspect.isclass(getattr(nn, name))
}
_OWN_TO_FLAX = ("parent",)


class _NotData(Exception):
  """Something of a network that only its own code can make."""


def to_data(network: flax_nn.Module) -> dict | None:
  """The network as JSON can hold it; None if it is not made of our layers only.

  Initial weights that have no name are left out: trained ones need none.
  """
  try:
    return _written(network, set())
  except _NotData:
    return None


def from_data(data: Any) -> flax_nn.Module:
  """The network that `to_data` wrote.

  Raises:
    UsageError: if it is no network.
  """
  try:
    network = _read(data)
  except (TypeError, ObjectiveError) as error:
    raise UsageError(
        f"{FILE} is damaged ({error}); give the network as it was made, with"
        f" network="
    ) from None
  if not isinstance(network, flax_nn.Module):
    raise UsageError(f"{FILE} is damaged: {shown(data)} is no network")
  return network


@dataclasses.dataclass(frozen=True)
class Stored:
  """What network.json holds.

  Attributes:
    network: None if it was not made of our layers only.
    input_shape: of one image.
    data_range: lowest and highest value of data, or None.
  """

  network: flax_nn.Module | None
  input_shape: tuple[int, ...]
  data_range: tuple[float, float] | None


def write(workdir: str, stored: Stored) -> None:
  """Writes network.json.

  Raises:
    UsageError: if it cannot be written.
  """
  network = stored.network
  files.write_json(os.path.join(workdir, FILE), {
      "network": network and to_data(network),
      "input_shape": list(stored.input_shape),
      "data_range": stored.data_range and list(stored.data_range),
  })


def read(workdir: str) -> Stored | None:
  """What a work folder's network.json holds, or None if there is none.

  Raises:
    UsageError: if it cannot be read.
  """
  path = os.path.join(workdir, FILE)
  found = files.read_json(path, "put it back")
  if found is None:
    return None
  shape, data = found.get("input_shape"), found.get("network")
  sizes = isinstance(shape, list) and all(type(size) is int for size in shape)
  if not sizes:
    raise UsageError(f"{path} is damaged: input_shape is {shown(shape)}")
  return Stored(
      data and from_data(data), tuple(shape),
      checked_range(found.get("data_range")),
  )


def _written(value: Any, seen: set[int]) -> Any:
  if isinstance(value, flax_nn.Module):
    name = type(value).__name__
    # What is used twice shares its weights, which data would not tell.
    if _LAYERS.get(name) is not type(value) or id(value) in seen:
      raise _NotData
    seen.add(id(value))
    fields = {
        field.name: _field(field.name, getattr(value, field.name), seen)
        for field in dataclasses.fields(value)
        if field.name not in _OWN_TO_FLAX and not _is_default(value, field)
    }
    return {"layer": name} | fields
  if isinstance(value, Schedule):
    return {"schedule": str(value)}
  if isinstance(value, list):
    return [_written(item, seen) for item in value]
  if isinstance(value, tuple):
    return {"tuple": [_written(item, seen) for item in value]}
  if hasattr(value, "item") and getattr(value, "shape", None) == ():
    value = value.item()  # A number of NumPy's.
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  raise _NotData


def _field(name: str, value: Any, seen: set[int]) -> Any:
  """A layer's value; of its initial weights the name, or None."""
  if name.endswith("_init"):
    names = [name for name, one in INITIALIZERS.items() if one is value]
    return {"initializer": names[0] if names else None}
  return _written(value, seen)


def _is_default(module: flax_nn.Module, field: dataclasses.Field) -> bool:
  value = getattr(module, field.name)
  if field.default is dataclasses.MISSING:
    return False
  return value is field.default or (
      type(value) is type(field.default) and value == field.default
  )


def _read(data: Any) -> Any:
  if isinstance(data, list):
    return list(map(_read, data))
  if not isinstance(data, Mapping):
    return data
  if "tuple" in data:
    return tuple(map(_read, data["tuple"]))
  if "schedule" in data:
    return parse_value(data["schedule"])
  if data.get("layer") not in _LAYERS:
    raise TypeError(f"no layer {shown(data.get('layer'))}")
  fields = {}
  for name, value in data.items():
    if isinstance(value, Mapping) and "initializer" in value:
      if value["initializer"] in INITIALIZERS:
        fields[name] = INITIALIZERS[value["initializer"]]
    elif name != "layer":
      fields[name] = _read(value)
  return _LAYERS[data["layer"]](**fields)
