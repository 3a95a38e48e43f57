"""What processes tell each other: values, arrays, errors.

Every process makes the same calls in the same order, in its main thread. With
one process nothing is sent.
"""

from collections.abc import Callable
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.processes.watch import Watch
from diffai_jax.types import UsageError, reason

_current: list[Watch] = []  # This process among others, if there are any.


def join(watch: Watch) -> None:
  """From now on this process is one of several."""
  _current[:] = [watch]


def leave() -> None:
  """From now on this process is alone."""
  _current.clear()


def current() -> Watch | None:
  """This process among the others, or None if there are none."""
  return _current[0] if _current else None


def index() -> int:
  """Which process this is, from 0 on."""
  return _current[0].index if _current else 0


def count() -> int:
  """How many processes there are."""
  return _current[0].count if _current else 1


def is_first() -> bool:
  """Whether this is the process that writes and prints."""
  return not index()


def share(total: int) -> slice:
  """This process's rows of `total`.

  Those of all processes follow each other in their order, and their numbers
  differ by one at most.
  """
  first, processes = index(), count()
  return slice(total * first // processes, total * (first + 1) // processes)


def gathered(arrays: Any) -> Any:
  """The arrays of all processes.

  Args:
    arrays: a pytree of NumPy arrays or numbers, of the same structure, shapes
      and types in every process.

  Returns:
    The pytree, with a first axis more: [count, ...].
  """
  leaves, structure = jax.tree.flatten(arrays)
  leaves = [np.asarray(leaf) for leaf in leaves]
  if count() == 1:
    return structure.unflatten([leaf[None] for leaf in leaves])
  found = [_unpacked(data) for data in current().exchange(_packed(leaves))]
  kinds = [[(leaf.dtype, leaf.shape) for leaf in one] for one in found]
  if any(kind != kinds[0] for kind in kinds):
    raise ValueError(f"arrays differ between processes: {kinds}")
  return structure.unflatten([np.stack(group) for group in zip(*found)])


def from_first(arrays: Any) -> Any:
  """The arrays of process 0, in all processes.

  Args:
    arrays: a pytree of NumPy arrays; of others than process 0 only its
      structure matters.
  """
  if count() == 1:
    return arrays
  leaves, structure = jax.tree.flatten(arrays)
  own = None
  if is_first():
    own = _packed([np.asarray(leaf) for leaf in leaves])
  return structure.unflatten(_unpacked(current().spread(own)))


def agreed(number: int) -> int:
  """The largest number that any process gives."""
  if count() == 1:
    return number
  return max(
      int(data) for data in current().exchange(str(int(number)).encode())
  )


def by_first(function: Callable[[], Any]) -> Any:
  """What process 0 finds, in all processes.

  Args:
    function: called by process 0 alone; its value can be written as JSON.

  Raises:
    UsageError, OSError: in all processes, if the function raises it. Another
      exception is a UsageError in the others.
  """
  if count() == 1:
    return function()
  if not is_first():
    return _result(json.loads(current().spread(None)))
  try:
    value = function()
  except Exception as error:
    current().spread(json.dumps(_described(error)).encode())
    raise
  current().spread(json.dumps({"value": value}).encode())
  return value


def together(function: Callable[[], Any]) -> Any:
  """What this process finds, once all of them have found theirs.

  A process that fails would leave the others waiting in the collective that
  comes next; so all fail.

  Args:
    function: called by every process.

  Raises:
    Exception: the function's own. In the processes where it raises none, a
      UsageError about the first one where it does.
  """
  if count() == 1:
    return function()
  try:
    value, failure = function(), None
  except Exception as error:
    value, failure = None, error
  described = _described(failure) if failure else {}
  everyone = [
      json.loads(data)
      for data in current().exchange(json.dumps(described).encode())
  ]
  if failure:
    raise failure
  for number, other in enumerate(everyone):
    if other:
      raise UsageError(f"process {number} of {count()}: {other['text']}")
  return value


def _described(error: Exception) -> dict:
  """An exception as JSON."""
  if isinstance(error, UsageError):
    return {"kind": "usage", "text": str(error), "detail": error.detail}
  if isinstance(error, OSError):
    return {
        "kind": "system", "text": reason(error), "number": error.errno,
        "cause": error.strerror, "file": _text(error.filename),
    }
  return {"kind": "other", "text": f"{type(error).__name__}: {reason(error)}"}


def _text(name) -> str | None:
  return None if name is None else str(name)


def _result(described: dict) -> Any:
  """The value, or the exception raised."""
  if "value" in described:
    return described["value"]
  if described["kind"] == "system":
    raise OSError(described["number"], described["cause"], described["file"])
  raise UsageError(described["text"], described.get("detail", ""))


def _packed(leaves: list[np.ndarray]) -> bytes:
  """Arrays as bytes: their types and shapes as JSON, a line end, the bytes."""
  about = json.dumps([[leaf.dtype.name, leaf.shape] for leaf in leaves])
  return b"".join([
      about.encode(), b"\n",
      *(np.ascontiguousarray(leaf).tobytes() for leaf in leaves),
  ])


def _unpacked(data: bytes) -> list[np.ndarray]:
  end = data.index(b"\n")
  leaves, start = [], end + 1
  for name, shape in json.loads(data[:end]):
    dtype = jnp.dtype(name)  # NumPy alone does not know bfloat16.
    size = int(np.prod(shape, dtype=np.int64))
    leaf = np.frombuffer(data, dtype, size, start).reshape(shape)
    leaves.append(leaf.copy())
    start += leaf.nbytes
  return leaves
