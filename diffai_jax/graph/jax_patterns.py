"""Calls that follow each other and have a sharper transformer together.

Each function returns a value equal to what its name says, in exact arithmetic.
They look back at the calls that made their operands; calls that are not needed
then are left out of the graph.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.graph import Call
from diffai_jax.graph.jax_constants import now
from diffai_jax.graph.jax_values import known, number
from diffai_jax.types import Array

scale_shift = transformers.scale_shift
_LAYERS = ("dense", "conv", "conv_transpose")
# Share of two numbers within which they are roundings of one.
_ROUNDING = {4: 4e-7, 8: 1e-15}


class Line(NamedTuple):
  """factor · root + shift, of known numbers."""

  root: Recording
  factor: float
  shift: float


def made_by(reader, x: Recording) -> Call | None:
  """The call that gives a value; None for the input."""
  return reader.builder.calls[x.number - 1] if x.number else None


def operand(reader, x: Recording, place: int) -> Recording:
  """The operand of that place of the call that gives x."""
  result = made_by(reader, x).inputs[place]
  builder = reader.builder
  shape = builder.calls[result - 1].shape if result else builder.input.shape[1:]
  return Recording(builder, result, (1, *shape), x.dtype)


def line(reader, x: Recording, until: int | None = None) -> Line:
  """x as a line of an earlier value: the first that no factor or shift made.

  Args:
    x: any value.
    until: number of a value to stop at.
  """
  factor, shift = 1.0, 0.0
  while x.number != until:
    call = made_by(reader, x)
    if call is None or call.transformer != "scale_shift":
      break
    by, more = (number(call.arrays[name]) for name in ("factor", "shift"))
    if by is None or more is None:
      break
    factor, shift = factor * by, shift + factor * more
    x = operand(reader, x, 0)
  return Line(x, factor, shift)


def _is(reader, x: Recording, transformer: str) -> bool:
  call = made_by(reader, x)
  return call is not None and call.transformer == transformer


def _near(x: Recording, found: float, expected: float) -> bool:
  return abs(found - expected) <= _ROUNDING.get(
      np.dtype(x.dtype).itemsize, 0
  ) * abs(expected)


def shifted(reader, x: Recording, constant: Array) -> Recording:
  """x + constant: the bias of the layer that made x, if it has none."""
  if number(constant) == 0:
    return x
  call = made_by(reader, x)
  if call is None:
    return scale_shift(x, 1.0, constant)
  if call.transformer == "scale_shift" and number(call.arrays["shift"]) == 0:
    return scale_shift(
        operand(reader, x, 0), call.arrays["factor"], constant,
        **dict(call.options),
    )
  bias = _by_channel(constant, x.shape[-1])
  if bias is None:
    return scale_shift(x, 1.0, constant)
  if call.transformer == "reshape" and x.shape[-1] == _last(reader, x):
    layer = operand(reader, x, 0)
    with_bias = _biased(reader, layer, bias)
    if with_bias is not None:
      return transformers.reshape(with_bias, x.shape[1:])
  with_bias = _biased(reader, x, bias)
  return scale_shift(x, 1.0, constant) if with_bias is None else with_bias


def _last(reader, x: Recording) -> int:
  return operand(reader, x, 0).shape[-1]


def _biased(reader, x: Recording, bias: Array) -> Recording | None:
  call = made_by(reader, x)
  if call is None or call.transformer not in _LAYERS or number(
      call.arrays["bias"]
  ) != 0:
    return None
  return transformers.TRANSFORMERS[call.transformer](
      operand(reader, x, 0), call.arrays["kernel"], bias, **dict(call.options)
  )


def _by_channel(constant: Array, channels: int) -> Array | None:
  """Numbers of the last axis; None if they differ along another."""
  shape = np.shape(constant)
  if math.prod(shape[:-1]) != 1:
    return None
  flat = now(lambda a: jnp.reshape(a, shape[-1:] or (1,)), constant)
  return now(lambda a: jnp.broadcast_to(a, (channels,)), flat)


def scaled_by(reader, x: Recording, constant: Array) -> Recording:
  """constant · x."""
  return x if number(constant) == 1 else scale_shift(x, constant, 0.0)


def divided(reader, x: Recording, constant: Array) -> Recording:
  """x / constant; sums of windows become means again."""
  by = number(constant)
  call = made_by(reader, x)
  if by and call is not None and call.transformer == "scale_shift":
    pooled = operand(reader, x, 0)
    factor = number(call.arrays["factor"])
    if factor and _is(reader, pooled, "average_pool") and not np.any(
        known(call.arrays["shift"])
    ):
      return scaled_by(reader, pooled, factor / by)
  if by == 1:
    return x
  if by:
    return scale_shift(x, 1 / by, 0.0, terms=2)
  return scale_shift(x, now(lambda c: 1 / c, constant), 0.0, terms=2)


def fraction(reader, constant: Array, x: Recording) -> Recording:
  """constant / x; 1 / (1 + exp(z)) is a sigmoid."""
  found = line(reader, x)
  if _is(reader, found.root, "exp") and (found.factor, found.shift) == (1, 1):
    z = operand(reader, found.root, 0)
    one = transformers.sigmoid(scale_shift(z, -1.0, 0.0))
  else:
    one = transformers.reciprocal(x)
  return scaled_by(reader, one, constant)


def logarithm(reader, x: Recording) -> Recording:
  """log(x); log(1 + exp(z)) is a softplus."""
  found = line(reader, x)
  if _is(reader, found.root, "exp") and (found.factor, found.shift) == (1, 1):
    return transformers.softplus(operand(reader, found.root, 0))
  return transformers.log(x)


def product(reader, x: Recording, y: Recording) -> Recording:
  """x · y; squares, and z·sigmoid(b·z) is a silu."""
  if x.number == y.number:
    return transformers.square(x)
  for value, gate in ((x, y), (y, x)):
    if _is(reader, gate, "sigmoid"):
      found = line(reader, operand(reader, gate, 0), value.number)
      if found.root.number == value.number and found.factor and not found.shift:
        result = transformers.silu(operand(reader, gate, 0))
        return scaled_by(reader, result, 1 / found.factor)
  return transformers.multiply(x, y)


def clipped(reader, x: Recording, low, high) -> Recording:
  """max(x, low) or min of that and high; None is no limit."""
  below, above = (None if v is None else number(v) for v in (low, high))
  if high is None and below == 0:
    return transformers.relu(x)
  call = made_by(reader, x)
  if low is None and above is not None and call is not None:
    if call.transformer == "relu" and above >= 0:
      return transformers.clip(operand(reader, x, 0), 0.0, high)
    inner = call.arrays.get("low")
    if call.transformer == "clip" and "high" not in call.arrays and (
        inner is not None and number(inner) is not None
        and number(inner) <= above
    ):
      return transformers.clip(operand(reader, x, 0), inner, high)
  if high is None and below is not None and call is not None:
    inner = call.arrays.get("high")
    if call.transformer == "clip" and "low" not in call.arrays and (
        inner is not None and number(inner) is not None
        and number(inner) >= below
    ):
      return transformers.clip(operand(reader, x, 0), low, inner)
  return transformers.clip(x, low, high)


def maximum(reader, x: Recording, y: Recording) -> Recording:
  """max(x, y); max(x, a·x) is a leaky ReLU or an absolute value."""
  for value, other in ((x, y), (y, x)):
    found = line(reader, other, value.number)
    if found.root.number == value.number and not found.shift:
      if found.factor == -1:
        return transformers.absolute(value)
      if 0 <= found.factor <= 1:
        return transformers.leaky_relu(value, found.factor)
  return transformers.maximum(x, y)


def piecewise(reader, x: Recording, at, below, above) -> Recording | None:
  """`below` where x < at, `above` where x > at, either where they are equal.

  Args:
    at, below, above: values, or arrays of constants.

  Returns:
    None if the pieces are not known to meet: such a function has no bound that
    every rounding of x - at keeps.
  """
  if isinstance(at, Recording):
    numbers = tuple(getattr(v, "number", None) for v in (below, above))
    if numbers == (at.number, x.number):
      return maximum(reader, x, at)
    if numbers == (x.number, at.number):
      return transformers.minimum(x, at)
    return None
  at = number(at)
  if at is None:
    return None
  pieces = []
  for piece in (below, above):
    if isinstance(piece, Recording):
      found = line(reader, piece, x.number)
      if found.root.number != x.number:
        return None
      pieces.append((found.factor, found.shift))
    else:
      pieces.append((0.0, number(piece)))
  (left, first), (right, last) = pieces
  if first is None or last is None or left * at + first != right * at + last:
    return None
  if (left, first, at) == (0, 0, 0) and (right, last) == (1, 0):
    return transformers.relu(x)
  if (left, right, first, at) == (-1, 1, 0, 0):
    return transformers.absolute(x)
  if (left, right) == (0, 1) and last == 0:
    return clipped(reader, x, at, None)
  if (left, right) == (1, 0) and first == 0:
    return clipped(reader, x, None, at)
  if right == 1 and 0 <= left <= 1 and (first, at) == (0, 0):
    return transformers.leaky_relu(x, left)
  bend = transformers.relu(shifted(reader, x, np.asarray(-at, x.dtype)))
  rest = scale_shift(x, left, first)
  return transformers.add(scale_shift(bend, right - left, 0.0), rest)


def variance(reader, x: Recording) -> Recording | None:
  """The mean of (z - mean(z))², if x is mean(z²) - mean(z)².

  Both are equal, and the first is nowhere negative for any z of an element,
  while a bound of the difference loses that its parts move together.
  """
  if not _is(reader, x, "subtract"):
    return None
  squares, root = (line(reader, operand(reader, x, n)) for n in (0, 1))
  if not _is(reader, root.root, "square") or (root.factor, root.shift) != (1, 0):
    return None
  mean = line(reader, operand(reader, root.root, 0))
  sums = [found.root for found in (squares, mean)]
  if not all(_is(reader, total, "sum_axes") for total in sums) or (
      squares.shift, mean.shift
  ) != (0, 0):
    return None
  calls = [made_by(reader, total) for total in sums]
  squared, z = (operand(reader, total, 0) for total in sums)
  if calls[0].options != calls[1].options or not _is(reader, squared, "square"):
    return None
  if operand(reader, squared, 0).number != z.number:
    return None
  axes = dict(calls[1].options)["axes"]
  count = math.prod(z.shape[1 + axis] for axis in axes)
  if not all(_near(x, f.factor * count, 1.0) for f in (squares, mean)):
    return None
  kept = [1 if a in axes else n for a, n in enumerate(z.shape[1:])]
  middle = transformers.reshape(operand(reader, root.root, 0), tuple(kept))
  middle = transformers.broadcast(middle, z.shape[1:])
  total = transformers.sum_axes(
      transformers.square(transformers.subtract(z, middle)), axes
  )
  return scale_shift(total, 1 / count, 0.0, terms=2)
