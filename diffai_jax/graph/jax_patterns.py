"""Looking back at the calls that made a value, to note fewer and sharper ones.

Each function that computes returns what its name says, in exact arithmetic, for
numbers of any kind. Calls that are not needed then are left out of the graph.
"""

from collections.abc import Iterator
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.graph import Call
from diffai_jax.graph.jax_constants import now
from diffai_jax.graph.jax_values import number
from diffai_jax.types import Array

scale_shift = transformers.scale_shift
_LAYERS = ("dense", "conv", "conv_transpose")


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
  for found in _lines(reader, x):
    if found.root.number == until:
      break
  return found


def _lines(reader, x: Recording) -> Iterator[Line]:
  """x as a line of itself, of what a factor and shift made it of, and so on."""
  factor, shift = 1.0, 0.0
  while True:
    yield Line(x, factor, shift)
    call = made_by(reader, x)
    if call is None or call.transformer != "scale_shift":
      return
    by, more = (number(call.arrays[name]) for name in ("factor", "shift"))
    inner = operand(reader, x, 0)
    if by is None or more is None or inner.shape != x.shape:
      return
    factor, shift, x = factor * by, shift + factor * more, inner


def common(reader, x: Recording, y: Recording) -> tuple[Line, Line] | None:
  """Both as lines of the value nearest to them that both are lines of."""
  of_x = {found.root.number: found for found in _lines(reader, x)}
  for found in _lines(reader, y):
    if found.root.number in of_x:
      return of_x[found.root.number], found
  return None


def multiples(reader, x: Recording, y: Recording) -> tuple[Line, Line] | None:
  """`common`, if neither has a shift."""
  found = common(reader, x, y)
  return found if found and not found[0].shift and not found[1].shift else None


def is_a(reader, x: Recording, transformer: str) -> bool:
  call = made_by(reader, x)
  return call is not None and call.transformer == transformer


def near(x: Recording, found: float, expected: float) -> bool:
  """Whether a number is the expected one, rounded in x's type a few times."""
  return abs(found - expected) <= 4 * float(
      jnp.finfo(x.dtype).eps
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
  if call is None or call.transformer not in _LAYERS:
    return None
  # Another module's shift is no bias of this one, whose result has a name.
  if call.name != x.builder.name or number(call.arrays["bias"]) != 0:
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


def scaled_by(
    reader, x: Recording, constant: Array, terms: int = 1
) -> Recording:
  """constant · x; known factors that make up 1 go.

  Args:
    x, constant: the constant broadcasts against one example.
    terms: as of `scale_shift`: more than 1 if the constant was computed here.
  """
  by = number(constant)
  if by == 1:
    return x
  found = line(reader, x)
  if by is not None and found.factor * by == 1 and found.shift == 0:
    return found.root
  if by is None:
    return scale_shift(x, constant, 0.0, **_rounded(terms))
  return _before_moves(reader, x, by, terms)


def _rounded(terms: int) -> dict:
  return {"terms": terms} if terms > 1 else {}


def _before_moves(
    reader, x: Recording, factor: float, terms: int
) -> Recording:
  """factor · x, computed before x was reshaped and broadcast."""
  call = made_by(reader, x)
  if call is None or call.transformer not in ("reshape", "broadcast"):
    return scale_shift(x, factor, 0.0, **_rounded(terms))
  inner = scaled_by(reader, operand(reader, x, 0), factor, terms)
  return transformers.TRANSFORMERS[call.transformer](inner, x.shape[1:])


def divided(reader, x: Recording, constant: Array) -> Recording:
  """x / constant; a known factor that it undoes goes, as of sums of windows."""
  by = number(constant)
  found = line(reader, x)
  if by is not None and found.factor == by and found.shift == 0:
    return found.root
  if by == 1:
    return x
  if by:
    call = made_by(reader, x)
    if call is not None and call.transformer in ("reshape", "broadcast"):
      inner = divided(reader, operand(reader, x, 0), constant)
      return transformers.TRANSFORMERS[call.transformer](inner, x.shape[1:])
    return scale_shift(x, 1 / by, 0.0, terms=2)
  return scale_shift(x, now(lambda c: 1 / c, constant), 0.0, terms=2)


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


# Transformers whose results are nowhere below 0; that move numbers; that are as
# large as one of their operand's.
_POSITIVE = frozenset((
    "absolute", "exp", "relu", "sigmoid", "softmax", "softplus", "square",
))
_MOVING = frozenset((
    "broadcast", "gather", "max_axes", "max_pool", "reshape", "slice_axes",
    "transpose",
))
# Of a known lower bound: what rounding may take from the number itself.
_ROUNDED = 1 - 1e-5


def least(reader, x: Recording) -> float:
  """A number that x is nowhere below, whatever the input; -inf if none is known.

  Rounding of x may be below it by a few units in the last place.
  """
  call = made_by(reader, x)
  if call is None:
    return -math.inf
  inner = [operand(reader, x, place) for place in range(len(call.inputs))]
  if call.transformer in _MOVING:
    return least(reader, inner[0])
  if call.transformer == "scale_shift":
    found = line(reader, x)
    if found.root.number == x.number or found.factor < 0:
      return -math.inf
    return found.factor * least(reader, found.root) + found.shift
  if call.transformer == "add":
    return sum(least(reader, value) for value in inner)
  if call.transformer == "sqrt":
    return math.sqrt(max(least(reader, inner[0]), 0))
  if call.transformer == "clip" and "low" in call.arrays:
    low = number(call.arrays["low"])
    return -math.inf if low is None else low
  if call.transformer in ("sum_axes", "average_pool"):
    # At least one of the summands, if none is below 0.
    below = least(reader, inner[0])
    summed = call.transformer == "sum_axes"
    return (below if summed else 0.0) if below >= 0 else -math.inf
  return 0.0 if call.transformer in _POSITIVE else -math.inf


def above_zero(reader, x: Recording) -> Recording:
  """x, cut where it is known never to be if that is above 0.

  So that what rounding takes from its bounds does not reach 0, where a reciprocal,
  a logarithm or a root's derivative end.
  """
  below = least(reader, x)
  if below <= 0 or is_a(reader, x, "clip"):
    return x
  return transformers.clip(x, below * _ROUNDED, None)


def root(reader, x: Recording) -> Recording:
  """√x."""
  below = least(reader, x)
  cut = transformers.relu(x) if below == 0 else above_zero(reader, x)
  return transformers.sqrt(cut)


def inverse(reader, x: Recording) -> Recording:
  """1/x."""
  return transformers.reciprocal(above_zero(reader, x))
