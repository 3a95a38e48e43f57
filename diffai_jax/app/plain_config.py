"""What configs need of ml_collections, for where that is not installed.

The same names and behaviour as `ml_collections.config_dict`, as far as the keys
of a config use them: groups, kinds of values, locks, JSON.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
from typing import Any


class RequiredValueError(Exception):
  """A key without a value was read; placeholders here always have None."""


class FieldReference:
  """A key's default and the kind that its values have."""

  def __init__(self, default: Any, *, field_type: type | None = None):
    self.default = default
    self.field_type = type(default) if field_type is None else field_type


def placeholder(field_type: type) -> FieldReference:
  """A key that holds nothing yet."""
  return FieldReference(None, field_type=field_type)


class ConfigDict:
  """Values by name, also as attributes, each of the kind that it had first."""

  def __init__(self, values: Mapping[str, Any] | None = None):
    self.__dict__.update(_values={}, _kinds={}, _locked=False, _typed=True)
    for name, value in (values or {}).items():
      self[name] = ConfigDict(value) if isinstance(value, Mapping) else value

  def __setitem__(self, name: str, value: Any) -> None:
    if name not in self._values:
      if self._locked:
        raise KeyError(f"the config is locked, and has no key {name!r}")
      kind = type(value)
      if isinstance(value, FieldReference):
        kind, value = value.field_type, value.default
      self._kinds[name] = object if value is None and kind is type(None) else kind
    elif self._typed:
      value = _of_kind(name, value, self._kinds[name])
    self._values[name] = value

  def __getitem__(self, name: str) -> Any:
    return self._values[name]

  def __delitem__(self, name: str) -> None:
    if self._locked:
      raise KeyError(f"the config is locked; {name!r} stays")
    del self._values[name], self._kinds[name]

  def __getattr__(self, name: str) -> Any:
    try:
      return self.__dict__["_values"][name]
    except KeyError:
      raise AttributeError(f"the config has no key {name!r}") from None

  def __setattr__(self, name: str, value: Any) -> None:
    try:
      self[name] = value
    except KeyError as error:
      raise AttributeError(error.args[0]) from None

  def __contains__(self, name: object) -> bool:
    return name in self._values

  def __iter__(self) -> Iterator[str]:
    return iter(self._values)

  def __len__(self) -> int:
    return len(self._values)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, ConfigDict) and self._values == other._values

  __hash__ = None

  def __repr__(self) -> str:
    return f"{type(self).__name__}({self.to_dict()})"

  def keys(self):
    return self._values.keys()

  def values(self):
    return self._values.values()

  def items(self, preserve_field_references: bool = False):
    del preserve_field_references  # Values are kept, never references.
    return self._values.items()

  def get(self, name: str, default: Any = None) -> Any:
    return self._values.get(name, default)

  def get_type(self, name: str) -> type:
    return self._kinds[name]

  def to_dict(self) -> dict[str, Any]:
    return {
        name: value.to_dict() if isinstance(value, ConfigDict) else value
        for name, value in self._values.items()
    }

  def to_json(self) -> str:
    return json.dumps(self.to_dict())

  def copy_and_resolve_references(self) -> "ConfigDict":
    copy = ConfigDict()
    for name, value in self._values.items():
      group = isinstance(value, ConfigDict)
      copy._values[name] = value.copy_and_resolve_references() if group else value
    copy.__dict__.update(_kinds=dict(self._kinds), _locked=self._locked)
    return copy

  def lock(self) -> "ConfigDict":
    return self._set("_locked", True)

  @contextlib.contextmanager
  def unlocked(self) -> Iterator[None]:
    """Keys may be added and removed within."""
    before = self._locked
    self._set("_locked", False)
    try:
      yield
    finally:
      self._set("_locked", before)

  @contextlib.contextmanager
  def ignore_type(self) -> Iterator[None]:
    """Values of other kinds may be set within."""
    self._set("_typed", False)
    try:
      yield
    finally:
      self._set("_typed", True)

  def _set(self, name: str, value: bool) -> "ConfigDict":
    self.__dict__[name] = value
    for inner in self._values.values():
      if isinstance(inner, ConfigDict):
        inner._set(name, value)
    return self


class FrozenConfigDict(ConfigDict):
  """A config that cannot be changed."""

  def __init__(self, values: Mapping[str, Any] | ConfigDict):
    if isinstance(values, ConfigDict):
      values = values.to_dict()
    self.__dict__.update(_kinds={}, _locked=True, _typed=True, _values={})
    for name, value in values.items():
      if isinstance(value, Mapping):
        value = FrozenConfigDict(value)
      elif isinstance(value, list):
        value = tuple(value)
      self._values[name] = value
      self._kinds[name] = type(value)

  def __setitem__(self, name: str, value: Any) -> None:
    raise AttributeError(f"a run's config cannot be changed, nor its {name!r}")

  __delitem__ = __setattr__ = __setitem__

  def __hash__(self) -> int:
    return hash(self.to_json())


def _of_kind(name: str, value: Any, kind: type) -> Any:
  """The value as its key holds it.

  Raises:
    TypeError: if it is of another kind.
  """
  if value is None or isinstance(value, kind):
    return value
  if kind is float and type(value) is int:
    return float(value)
  if kind is tuple and isinstance(value, list):
    return tuple(value)
  raise TypeError(
      f"{name} is {value!r}; expected {kind.__name__}, not"
      f" {type(value).__name__}"
  )
