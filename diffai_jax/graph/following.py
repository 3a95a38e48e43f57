"""Elements that know how they came about: each with the calls that led to it.

A goal whose loss needs more than the output's element, such as linear bounds walked
back (CROWN-IBP) or a part of the network run again (TAPS), follows its element
through the network: transformers act on it as on any element, and note the call and
its result. So the output has the graph of its run, with an element for each result,
and nothing is run twice. Weights may be traced, and so they are the graph's arrays.

A `Followed` is a pytree of everything that led to it: it may leave a function that JAX
transforms, such as a rematerialised stage of a network.
"""

from collections.abc import Iterator
import contextlib
import contextvars
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.domains.product import (
    Value,
    example_shape,
    parts,
    rebuild,
    value_dtype,
)
from diffai_jax.graph.building import hashable, moved, needed, strong
from diffai_jax.graph.graph import Call, Graph
from diffai_jax.graph.record import layer_names
from diffai_jax.transformers import Deferred, adopt_symbols, apply, constant
from diffai_jax.types import UsageError

_numbers = itertools.count()
_NAME = contextvars.ContextVar("the name that calls bear", default="")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Note:
  """A result.

  Attributes:
    call: what made it, its inputs being numbers of notes; None if nothing did.
    value: the result.
    number: which no other note has, and which grows in the order of the run
      (static).
  """

  call: Call | None
  value: HybridZonotope
  number: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Followed(Deferred):
  """An element with all that led to it.

  Attributes:
    notes: of the results, in the order of their numbers; the last is its own.
  """

  notes: tuple[Note, ...]

  @property
  def value(self) -> HybridZonotope:
    """The element itself."""
    return self.notes[-1].value

  @property
  def number(self) -> int:
    """Of its own note."""
    return self.notes[-1].number

  @property
  def shape(self) -> tuple[int, ...]:
    """[B, ...]."""
    return self.value.center.shape

  @property
  def ndim(self) -> int:
    return len(self.shape)

  @property
  def dtype(self):
    return self.value.center.dtype

  def take(
      self, name: str, values: tuple, arrays: dict, options: dict
  ) -> "Followed":
    followed = [self._followed(value) for value in values]
    dtype = jnp.result_type(*(value.dtype for value in followed))
    arrays = {key: strong(array, dtype) for key, array in arrays.items()}
    result = apply(
        name, tuple(value.value for value in followed), arrays, options,
        _NAME.get(),
    )
    call = Call(
        name, tuple(value.number for value in followed), arrays,
        tuple(sorted((key, hashable(o)) for key, o in options.items())),
        _NAME.get(), example_shape(result),
    )
    known = {note.number: note for value in followed for note in value.notes}
    before = tuple(known[number] for number in sorted(known))
    return Followed(before + (Note(call, result, next(_numbers)),))

  def _followed(self, value) -> "Followed":
    """A value that meets this one; arrays are constants of the network."""
    if isinstance(value, Followed):
      return value
    if not isinstance(value, (jax.Array, np.ndarray)):
      raise TypeError(
          f"{type(value).__name__} meets an element that is followed; expected"
          f" another one of them, or an array"
      )
    if value.ndim and value.shape[0] != 1:
      raise UsageError(
          f"a constant of shape {list(value.shape)} meets an element that is"
          f" followed; its first axis is the batch and must be 1"
      )
    return constant(self, jnp.asarray(value)[0])

  def named(self, name: str):
    return _named(name)

  def adopted(self) -> "Followed":
    last = self.notes[-1]
    return Followed(self.notes[:-1] + (
        dataclasses.replace(last, value=adopt_symbols(last.value)),
    ))

  def run(self) -> tuple[Graph, tuple[HybridZonotope, ...]]:
    """The graph of the run, and the input and each call's result.

    Weights are those of the run, so that gradients flow to them. Arrays with a
    batch axis, such as the masks of dropout, are those of the run's examples.

    Raises:
      UsageError: if nothing has been called on the element that was followed.
    """
    begin, *rest = self.notes
    if not rest:
      raise UsageError(
          "the network returns its input: there are no layers to follow"
      )
    places = {note.number: place for place, note in enumerate(self.notes)}
    calls, kept = needed(
        [moved(note.call, places) for note in rest], (len(rest),)
    )
    values = {new: self.notes[old].value for old, new in kept.items()}
    graph = Graph(
        calls, (len(calls),), example_shape(begin.value),
        jnp.dtype(value_dtype(begin.value)).name,
    )
    return graph, tuple(values[number] for number in range(len(values)))


def follow(element: HybridZonotope) -> Followed:
  """The element, to be followed from here on."""
  return Followed((Note(None, element, next(_numbers)),))


def plain(x: Value) -> Value:
  """The value with elements in the places of those that are followed."""
  return rebuild(x, [
      part.value if isinstance(part, Followed) else part for part in parts(x)
  ])


def alone(x: Value) -> Value:
  """The value, of which nothing that is followed knows what led to it."""
  return rebuild(x, [
      Followed((Note(None, part.value, part.number),))
      if isinstance(part, Followed) else part for part in parts(x)
  ])


def after(x: Value, before: Value) -> Value:
  """What a function made of `alone(before)`, with what led to that."""

  def joined(part: Followed, start: Followed) -> Followed:
    known = {note.number: note for note in part.notes + start.notes}
    return Followed(tuple(known[number] for number in sorted(known)))

  return rebuild(x, [
      joined(part, start) if isinstance(part, Followed) else part
      for part, start in zip(parts(x), parts(before), strict=True)
  ])


def named_by_layers():
  """A context in which calls on what is followed bear their Flax layers' paths."""
  return layer_names(_named)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
  token = _NAME.set(name)
  try:
    yield
  finally:
    _NAME.reset(token)


def for_each(graph: Graph, times: int) -> Graph:
  """The graph for batches in which each example stands `times` times in a row.

  Only masks of dropout know of examples: factors with a batch axis.
  """
  calls = []
  for call in graph.calls:
    if of_examples(call):
      factor = jnp.repeat(call.arrays["factor"], times, axis=0)
      arrays = call.arrays | {"factor": factor}
      call = dataclasses.replace(call, arrays=arrays)
    calls.append(call)
  return dataclasses.replace(graph, calls=tuple(calls))


def of_examples(call: Call) -> bool:
  """Whether a call has a factor of its own for each example."""
  shape = jnp.shape(call.arrays.get("factor", 0))
  return len(shape) > len(call.shape) and shape[0] > 1
