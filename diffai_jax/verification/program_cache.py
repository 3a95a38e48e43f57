"""Compiled programs that were used last, found again by what they compute.

A program is a function of weights, images and ε, so another network of the same
layers, other images of the same shape and another ε run the same one.
"""

import collections
from collections.abc import Callable, Hashable, Mapping
import dataclasses
import threading
import weakref

from flax import linen as nn
import jax
import numpy as np

_MOST = 64  # Programs that are kept; an executable may take many MiB.
_everything = weakref.WeakSet()  # All that LastUsed keep.


class LastUsed:
  """Values by key, those that were asked for last."""

  def __init__(self, most: int = _MOST):
    self._most = most
    self._values = collections.OrderedDict()
    self._lock = threading.Lock()
    _everything.add(self)

  def get(self, key: Hashable, make: Callable):
    """The value of a key, made if there is none."""
    with self._lock:
      if key in self._values:
        self._values.move_to_end(key)
        return self._values[key]
    value = make()
    with self._lock:
      self._values[key] = value
      self._values.move_to_end(key)
      while len(self._values) > self._most:
        self._values.popitem(last=False)
    return value

  def clear(self) -> None:
    with self._lock:
      self._values.clear()

  def __len__(self) -> int:
    return len(self._values)


def forget() -> None:
  """Drops all that is kept: programs, and what was found of networks."""
  for kept in list(_everything):
    kept.clear()


def structure(value, seen: dict[int, int] | None = None) -> Hashable:
  """What a static value is made of: equal for those that compute the same.

  Modules are compared field by field, and by where one of them is used twice,
  which shares its weights. Anything that is neither data nor hashable equals
  itself alone.

  Args:
    value: a module, or a dataclass, sequence or mapping with modules in it.
    seen: numbers of the modules met before, by id.
  """
  seen = {} if seen is None else seen
  inner = lambda part: structure(part, seen)
  if isinstance(value, nn.Module):
    if id(value) in seen:
      return "again", seen[id(value)]
    seen[id(value)] = len(seen)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = [f.name for f in dataclasses.fields(value) if f.name != "parent"]
    return type(value), *(inner(getattr(value, name)) for name in fields)
  if isinstance(value, (list, tuple)):
    return "sequence", *map(inner, value)
  if isinstance(value, Mapping):
    return "mapping", *((inner(k), inner(v)) for k, v in value.items())
  if isinstance(value, (np.ndarray, jax.Array)):
    array = np.asarray(value)
    return "array", array.shape, array.dtype, array.tobytes()
  try:
    hash(value)
  except TypeError:
    return _Itself(value)
  return type(value), value


@dataclasses.dataclass(frozen=True, eq=False)
class _Itself:
  """Equal to one of the same object alone, which it keeps alive."""

  value: object

  def __eq__(self, other) -> bool:
    return isinstance(other, _Itself) and self.value is other.value

  def __hash__(self) -> int:
    return id(self.value)


def shapes(tree) -> Hashable:
  """Structure, shapes and types of a pytree of arrays."""
  leaves, treedef = jax.tree.flatten(tree)
  return treedef, *(
      (np.shape(leaf), np.dtype(leaf.dtype), getattr(leaf, "weak_type", False))
      for leaf in leaves
  )


def surroundings() -> Hashable:
  """What a program depends on besides: devices, and whether floats have 64 bits."""
  return tuple(jax.local_devices()), jax.config.jax_enable_x64
