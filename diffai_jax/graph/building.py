"""Building a graph: values that note which transformers they meet."""

from collections.abc import Iterator, Sequence
import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.graph.graph import Call, Graph
from diffai_jax.transformers import Deferred, apply, constant
from diffai_jax.types import UsageError, shown


class Builder:
  """A graph in the making.

  Attributes:
    input: stands for the network's input.
    calls: noted so far.
  """

  def __init__(self, input_shape: Sequence[int], dtype=np.float32):
    """
    Args:
      input_shape: of one example.
      dtype: what the network computes in.
    """
    self.input = Recording(self, 0, (1, *input_shape), np.dtype(dtype))
    self.calls: list[Call] = []
    self._name = ""

  @property
  def name(self) -> str:
    """What calls bear at present."""
    return self._name

  @contextlib.contextmanager
  def named(self, name: str) -> Iterator[None]:
    """Calls in the block bear this name."""
    before, self._name = self._name, name
    try:
      yield
    finally:
      self._name = before

  def graph(self, *outputs: "Recording") -> Graph:
    """The graph that gives these values, without calls that none of them needs.

    Raises:
      UsageError: if one of them does not depend on the input.
    """
    for output in outputs:
      if not isinstance(output, Recording) or output.builder is not self:
        raise UsageError(
            f"the network gives {shown(output)}; expected something that is"
            f" computed from its input"
        )
    numbers = tuple(output.number for output in outputs)
    calls, kept = needed(self.calls, numbers)
    return Graph(
        calls, tuple(kept[n] for n in numbers), self.input.shape[1:],
        self.input.dtype.name,
    )

  def take(self, name: str, values: tuple, arrays: dict, options: dict):
    """Notes a call: see `Deferred.take`."""
    recorded = tuple(self._recorded(value, values) for value in values)
    dtype = jnp.result_type(*(value.dtype for value in recorded))
    arrays = {key: strong(array, dtype) for key, array in arrays.items()}
    options = tuple(sorted(
        (key, hashable(option)) for key, option in options.items()
    ))
    shape, dtype = _result(
        name, tuple((v.shape, v.dtype) for v in recorded),
        tuple((key, jnp.shape(a), a.dtype) for key, a in arrays.items()),
        options, jax.config.jax_enable_x64,
    )
    self.calls.append(Call(
        name, tuple(value.number for value in recorded), arrays, options,
        self._name, shape[1:],
    ))
    return Recording(self, len(self.calls), shape, dtype)

  def _recorded(self, value, values: tuple) -> "Recording":
    """A value of this graph; arrays become constants of it."""
    if isinstance(value, Recording):
      if value.builder is not self:
        raise UsageError("values of two graphs meet; read one at a time")
      return value
    like = next(v for v in values if isinstance(v, Recording))
    if not isinstance(value, (jax.Array, np.ndarray)):
      raise TypeError(
          f"a graph has no place for {type(value).__name__}; expected arrays"
      )
    if value.ndim and value.shape[0] != 1:
      raise UsageError(
          f"a constant of shape {list(value.shape)} meets a network's input; its"
          f" first axis is the batch and must be 1"
      )
    return constant(like, jnp.asarray(value)[0])


class Recording(Deferred):
  """A value inside of a graph: its shape and type are known, its numbers not.

  Attributes:
    builder: of the graph.
    number: of the result that it is.
    shape: [1, ...], the batch first.
    dtype: its floating-point type.
  """

  def __init__(
      self, builder: Builder, number: int, shape: tuple[int, ...], dtype
  ):
    self.builder, self.number = builder, number
    self.shape, self.dtype = tuple(shape), dtype

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def take(
      self, name: str, values: tuple, arrays: dict, options: dict
  ) -> "Recording":
    return self.builder.take(name, values, arrays, options)

  def named(self, name: str):
    return self.builder.named(name)

  def __repr__(self) -> str:
    return f"Recording(%{self.number}, {list(self.shape)}, {self.dtype})"


def needed(
    calls: Sequence[Call], outputs: Sequence[int]
) -> tuple[tuple[Call, ...], dict[int, int]]:
  """The calls that some results need, and the numbers that their results get.

  Args:
    calls: of a graph.
    outputs: numbers of results.

  Returns:
    (calls, new numbers by old ones; the input's is 0).
  """
  wanted = set(outputs)
  for number in range(len(calls), 0, -1):
    if number in wanted:
      wanted.update(calls[number - 1].inputs)
  numbers, kept = {0: 0}, []
  for number, call in enumerate(calls, start=1):
    if number in wanted:
      kept.append(moved(call, numbers))
      numbers[number] = len(kept)
  return tuple(kept), numbers


def moved(call: Call, numbers: dict[int, int]) -> Call:
  """The call on results that have got other numbers."""
  return Call(
      call.transformer, tuple(numbers[n] for n in call.inputs), call.arrays,
      call.options, call.name, call.shape,
  )


@functools.lru_cache(maxsize=4096)
def _result(name, values, arrays, options, x64) -> tuple[tuple[int, ...], Any]:
  """Shape [1, ...] and type of a call's result."""
  del x64  # Other types come out with it.
  like = jax.ShapeDtypeStruct
  result = jax.eval_shape(
      lambda values, arrays: apply(name, values, arrays, dict(options)),
      tuple(like(shape, dtype) for shape, dtype in values),
      {key: like(shape, dtype) for key, shape, dtype in arrays},
  )
  return result.shape, result.dtype


def strong(array, dtype):
  """An array; of a number one of the given type."""
  if hasattr(array, "dtype"):
    if isinstance(array, np.ndarray | np.generic):
      return np.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))
    return array
  return np.asarray(array, dtype)


def hashable(option):
  """A static option in a form that can be compared, hashed and saved."""
  if isinstance(option, np.ndarray | np.generic):
    option = option.tolist()
  if isinstance(option, (list, tuple)):
    return tuple(map(hashable, option))
  return option
