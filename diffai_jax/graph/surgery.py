"""Graphs made of graphs: cut in two, other outputs, fewer calls."""

from collections.abc import Iterable
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.graph.building import moved, needed
from diffai_jax.graph.graph import Call, Graph
from diffai_jax.types import Array, UsageError

_LAYERS = ("dense", "conv", "conv_transpose")
_MOST_SYMBOLS = 2**22  # Numbers an example that a last layer's symbols may take.


def keep(graph: Graph, names: Iterable[str]) -> Graph:
  """The graph that gives the results of these names, in their order.

  Raises:
    UsageError: if there is no such result.
  """
  outputs = tuple(graph.number(name) for name in names)
  calls, numbers = needed(graph.calls, outputs)
  return dataclasses.replace(
      graph, calls=calls, outputs=tuple(numbers[n] for n in outputs)
  )


def split(graph: Graph, name: str) -> tuple[Graph, Graph]:
  """The part up to a result, and the part from there: second(first(x)).

  Args:
    graph: to be cut.
    name: of the result, as `Graph.names` has them.

  Raises:
    UsageError: if there is no such result, or what comes after it uses something
      else that comes before, such as the other way of a residual sum.
  """
  return split_at(graph, graph.number(name), name)


def split_at(graph: Graph, place: int, name: str = "") -> tuple[Graph, Graph]:
  """`split` at the result of that number; `name` is for messages."""
  first = Graph(
      needed(graph.calls, (place,))[0], (), graph.input_shape, graph.dtype
  )
  first = dataclasses.replace(first, outputs=(len(first.calls),))
  used = _wanted(graph, stop=place)
  earlier = sorted(number for number in used if number < place)
  if earlier:
    calls = graph.calls
    other = "the input" if not earlier[0] else (
        f"the result of {calls[earlier[0] - 1].name or earlier[0]}"
    )
    raise UsageError(
        f"the network cannot be cut at {name or f'result {place}'}: what comes"
        f" after it also uses {other}; cut where all ways have met"
    )
  numbers = {place: 0}
  rest = []
  for number, call in enumerate(graph.calls, start=1):
    if number > place and number in used:
      rest.append(moved(call, numbers))
      numbers[number] = len(rest)
  second = Graph(
      tuple(rest), tuple(numbers[n] for n in graph.outputs),
      graph.shape(place), graph.dtype,
  )
  return first, second


def cuts(graph: Graph) -> list[int]:
  """Numbers of the results that all that comes after them comes from.

  The input, 0, is one; the output is not.
  """
  return [
      place for place in range(min(graph.outputs))
      if all(n >= place for n in _wanted(graph, stop=place))
  ]


def _wanted(graph: Graph, stop: int) -> set[int]:
  """Results that the outputs need, looking no further than result `stop`."""
  wanted = set(graph.outputs)
  for number in range(len(graph.calls), stop, -1):
    if number in wanted:
      wanted.update(graph.calls[number - 1].inputs)
  return wanted


def simplify(graph: Graph) -> Graph:
  """The same function in fewer calls.

  Factors and shifts become part of the dense layer or convolution before them
  (batch normalisation), and of the dense layer after them; affine calls that
  follow each other become one where that makes them no larger; moves that undo
  each other or do nothing go, and a permutation before a dense layer becomes one
  of its kernel's rows. Calls that no output needs go.

  The arrays are computed in NumPy's or JAX's type as they are: it is another
  network by their rounding, and what is proved of it is proved of it alone.
  """
  while True:
    simpler = _pass(graph)
    if simpler is None:
      return graph
    graph = simpler


def _pass(graph: Graph) -> Graph | None:
  """The graph with one pair of calls made one; None if there is none."""
  uses = [0] * (len(graph.calls) + 1)
  for call in graph.calls:
    for number in call.inputs:
      uses[number] += 1
  for number in graph.outputs:
    uses[number] += 1
  for number, call in enumerate(graph.calls, start=1):
    if len(call.inputs) != 1:
      continue
    place = call.inputs[0]
    shape = graph.shape(place)
    if _does_nothing(call, shape):
      return _without(graph, number, place)
    if not place or uses[place] != 1:
      continue
    before = graph.calls[place - 1]
    if len(before.inputs) != 1:
      continue
    start, calls = before.inputs[0], list(graph.calls)
    merged = _merged(before, call, graph.shape(start))
    if merged is not None:
      calls[number - 1] = dataclasses.replace(merged, inputs=before.inputs)
    elif start and uses[start] == 1 and _permutes(calls[start - 1], before, call):
      turn = calls[start - 1]
      calls[place - 1] = dataclasses.replace(before, inputs=turn.inputs)
      calls[number - 1] = _permuted(turn, call)
    else:
      continue
    return _pruned(dataclasses.replace(graph, calls=tuple(calls)))
  return None


def _pruned(graph: Graph) -> Graph:
  calls, numbers = needed(graph.calls, graph.outputs)
  return dataclasses.replace(
      graph, calls=calls, outputs=tuple(numbers[n] for n in graph.outputs)
  )


def _without(graph: Graph, number: int, place: int) -> Graph:
  """The graph where an earlier result stands for that of a call."""
  swap = lambda n: place if n == number else n
  calls = tuple(
      dataclasses.replace(call, inputs=tuple(map(swap, call.inputs)))
      for call in graph.calls
  )
  outputs = tuple(map(swap, graph.outputs))
  return _pruned(dataclasses.replace(graph, calls=calls, outputs=outputs))


def _does_nothing(call: Call, shape: tuple[int, ...]) -> bool:
  if call.transformer == "reshape":
    return call.shape == shape
  if call.transformer == "transpose":
    axes = dict(call.options)["axes"]
    return axes == tuple(range(len(axes)))
  return False


def _merged(before: Call, call: Call, shape: tuple[int, ...]) -> Call | None:
  """Both calls as one, but for its inputs; None if they cannot be.

  Args:
    before, call: the second uses the first alone.
    shape: of what flows into the first.
  """
  pair = before.transformer, call.transformer
  if pair == ("reshape", "reshape"):
    return call
  if pair == ("transpose", "transpose"):
    first, second = (dict(c.options)["axes"] for c in (before, call))
    axes = tuple(first[a] for a in second)
    return dataclasses.replace(call, options=(("axes", axes),))
  if call.transformer == "scale_shift" and before.transformer in _LAYERS:
    return _scaled(before, call)
  if pair == ("scale_shift", "scale_shift"):
    return _scaled_twice(before, call)
  if pair == ("scale_shift", "dense") and len(shape) == 1:
    return _scaled_first(before, call, shape)
  if pair == ("dense", "dense"):
    return _multiplied(before, call)
  return None


def _scaled(layer: Call, norm: Call) -> Call | None:
  """A dense layer or convolution, and a factor and shift of its channels."""
  channels = layer.shape[-1]
  factor, shift = (
      _by_channel(norm.arrays[name], channels) for name in ("factor", "shift")
  )
  if factor is None or shift is None:
    return None
  kernel, bias = layer.arrays["kernel"], layer.arrays["bias"]
  return dataclasses.replace(layer, arrays={
      "kernel": kernel * factor, "bias": bias * factor + shift,
  })


def _by_channel(array: Array, channels: int) -> Array | None:
  """Numbers of the last axis; None if they differ along another."""
  shape = jnp.shape(array)
  if math.prod(shape[:-1]) != 1:
    return None
  array = array.reshape(shape[-1:] or (1,))
  return jnp.broadcast_to(array, (channels,))


def _scaled_twice(first: Call, second: Call) -> Call:
  by, shift = first.arrays["factor"], first.arrays["shift"]
  factor = second.arrays["factor"]
  terms = sum(dict(c.options).get("terms", 1) for c in (first, second))
  return dataclasses.replace(
      second,
      arrays={
          "factor": by * factor,
          "shift": shift * factor + second.arrays["shift"],
      },
      options=(("terms", terms),),
  )


def _scaled_first(norm: Call, dense: Call, shape: tuple[int, ...]) -> Call:
  """Factors and shifts of a vector, and a dense layer."""
  factor, shift = (
      jnp.broadcast_to(norm.arrays[name], shape) for name in ("factor", "shift")
  )
  kernel = dense.arrays["kernel"]
  return dataclasses.replace(dense, arrays={
      "kernel": factor[:, None] * kernel,
      "bias": _product(shift, kernel) + dense.arrays["bias"],
  })


def _multiplied(first: Call, second: Call) -> Call | None:
  """Two dense layers, if their product has no more numbers than they have."""
  kernel, other = first.arrays["kernel"], second.arrays["kernel"]
  size = kernel.shape[0] * other.shape[1]
  if size > math.prod(kernel.shape) + math.prod(other.shape):
    return None
  return dataclasses.replace(second, arrays={
      "kernel": _product(kernel, other),
      "bias": _product(first.arrays["bias"], other) + second.arrays["bias"],
  })


def _permutes(turn: Call, flatten: Call, dense: Call) -> bool:
  """Whether these are a permutation, a flattening and a dense layer."""
  names = turn.transformer, flatten.transformer, dense.transformer
  return names == ("transpose", "reshape", "dense") and len(flatten.shape) == 1


def _permuted(turn: Call, dense: Call) -> Call:
  """The dense layer on what flows into a permutation before it."""
  axes = dict(turn.options)["axes"]
  kernel = dense.arrays["kernel"]
  back = tuple(int(axis) for axis in np.argsort(axes))
  rows = kernel.reshape(*turn.shape, -1)
  rows = rows.transpose(*back, len(axes)).reshape(kernel.shape)
  return dataclasses.replace(dense, arrays=dense.arrays | {"kernel": rows})


def _product(x: Array, y: Array) -> Array:
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def correlate_before_last(graph: Graph) -> Graph:
  """The graph whose last dense layer is given symbols for all that flows in.

  Differences of its outputs then cancel what they share: of rows C the bound is
  that of the merged layer C·(W·x + b), |C·W|·r, and not |C|·|W|·r. Exact, since
  naming uncorrelated error leaves the set as it is. A graph that does not end with
  a dense layer, or one of more than _MOST_SYMBOLS weights, stays as it is.
  """
  last = graph.outputs[0]
  if len(graph.outputs) > 1 or not last:
    return graph
  call = graph.calls[last - 1]
  place = call.inputs[0]
  shape = graph.shape(place)
  vectors = call.transformer == "dense" and len(shape) == 1
  known = place and graph.calls[place - 1].transformer == "correlate_all"
  if not vectors or known or shape[0] * call.shape[0] > _MOST_SYMBOLS:
    return graph
  symbols = Call(
      "correlate_all", (place,), {}, (), call.name, shape
  )
  calls = graph.calls[: last - 1] + (
      symbols, dataclasses.replace(call, inputs=(last,))
  )
  # What comes after the output is not needed for it.
  return dataclasses.replace(graph, calls=calls, outputs=(last + 1,))
