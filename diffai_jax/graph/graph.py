"""A network as data: a list of calls of transformers.

A graph is a pytree whose leaves are the network's arrays, so that it can be jitted,
differentiated, saved and put on devices like weights. It runs on whatever
transformers take: arrays, elements, products of them.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from diffai_jax.domains.product import Value
from diffai_jax.text.suggest import nearest
from diffai_jax.transformers import apply, named
from diffai_jax.types import Array, UsageError, shown

_LISTED = 8  # Names in a message.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Call:
  """One call of a transformer.

  Attributes:
    transformer: its name, a key of `transformers.TRANSFORMERS` (static).
    inputs: numbers of the results that flow into it: 0 is the graph's input, and
      call number i, from 0, gives result i + 1 (static).
    arrays: its arrays by parameter.
    options: its other arguments, (parameter, value) by name (static).
    name: where it comes from, such as the layer's path in Flax (static).
    shape: of one example of its result (static).
  """

  transformer: str = dataclasses.field(metadata={"static": True})
  inputs: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  arrays: dict[str, Array]
  options: tuple[tuple[str, Any], ...] = dataclasses.field(
      metadata={"static": True}
  )
  name: str = dataclasses.field(metadata={"static": True})
  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

  def __call__(self, *values: Value) -> Value:
    """The result, from those that flow in; new noise symbols bear the name."""
    with named(values, self.name):
      return apply(
          self.transformer, values, self.arrays, dict(self.options), self.name
      )

  def __str__(self) -> str:
    given = [f"%{number}" for number in self.inputs]
    given += [
        f"{name}{list(jnp.shape(array))}" for name, array in self.arrays.items()
    ]
    given += [f"{name}={value}" for name, value in self.options]
    return f"{self.transformer}({', '.join(given)}) -> {list(self.shape)}"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Graph:
  """Calls of transformers, each of which uses earlier results.

  Attributes:
    calls: in an order in which they can run.
    outputs: numbers of the results that the graph gives (static).
    input_shape: of one example (static).
    dtype: the name of the floating-point type it was read in (static).
  """

  calls: tuple[Call, ...]
  outputs: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  input_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  dtype: str = dataclasses.field(
      default="float32", metadata={"static": True}
  )

  def __call__(self, value: Value) -> Value | tuple[Value, ...]:
    """The network of a value: its output, or a tuple of several.

    Sound on elements: each call is a transformer.

    Args:
      value: an array [B, ...], HybridZonotope or Product, over `input_shape`.
    """
    results = self.results(value)
    found = tuple(results[number] for number in self.outputs)
    return found[0] if len(found) == 1 else found

  def results(
      self,
      value: Value,
      after: Mapping[int, Callable[[Value], Value]] | None = None,
  ) -> list[Value]:
    """The input and what each call gives, in their order.

    Args:
      value: as of a call.
      after: by a result's number, what it goes through before it is used.
    """
    after = after or {}
    unchanged = lambda result: result
    results = [after.get(0, unchanged)(value)]
    for number, call in enumerate(self.calls, start=1):
      result = call(*(results[given] for given in call.inputs))
      results.append(after.get(number, unchanged)(result))
    return results

  def shape(self, number: int) -> tuple[int, ...]:
    """Of one example of a result."""
    return self.calls[number - 1].shape if number else self.input_shape

  @property
  def output_shape(self) -> tuple[int, ...]:
    """Of one example of the first output."""
    return self.shape(self.outputs[0])

  def names(self) -> dict[str, int]:
    """Numbers of results by name.

    A layer's name is that of its last call, and each path above it has the last of
    its layers: "a/b" and "a". Each call has a name of its own, too, the path and
    the transformer with a number: "a/relu_0", or "relu_0" outside of layers.
    """
    layers, calls, counts = {}, {}, collections.Counter()
    for number, call in enumerate(self.calls, start=1):
      for name in _with_parents(call.name):
        layers[name] = number
      own = f"{call.name}/{call.transformer}".lstrip("/")
      calls[f"{own}_{counts[own]}"] = number
      counts[own] += 1
    return calls | layers

  def layers(self) -> dict[str, int]:
    """Numbers of results, each once: of layers by their path, else of calls."""
    found = {}
    for name, number in self.names().items():
      path = self.calls[number - 1].name
      if name == path or not path:
        found[name] = number
    return dict(sorted(found.items(), key=lambda item: item[1]))

  def number(self, name: str) -> int:
    """The number of the result of that name.

    Raises:
      UsageError: if there is none.
    """
    known = self.names()
    if not isinstance(name, str) or name not in known:
      guess = nearest(name, known) if isinstance(name, str) else None
      hint = f"did you mean {guess!r}? " if guess else ""
      by_order = sorted(known, key=known.get)
      listed = ", ".join(by_order[:_LISTED])
      more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
      raise UsageError(
          f"the network has no layer {shown(name)}; {hint}known: {listed}{more}"
      )
    return known[name]

  def parameters(self) -> int:
    """How many numbers its arrays have."""
    return sum(math.prod(jnp.shape(a)) for a in jax.tree.leaves(self.calls))

  def __str__(self) -> str:
    lines = [f"%0 = input {list(self.input_shape)}"]
    for number, call in enumerate(self.calls, start=1):
      name = f"  # {call.name}" if call.name else ""
      lines.append(f"%{number} = {call}{name}")
    lines.append("return " + ", ".join(f"%{n}" for n in self.outputs))
    return "\n".join(lines)


def _with_parents(path: str) -> Iterator[str]:
  """A path and those that it is in, "" left out."""
  while path:
    yield path
    path = path.rpartition("/")[0]
