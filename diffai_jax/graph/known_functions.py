"""Functions that JAX writes as several equations and that have a transformer.

Each is recognised by what was computed, whichever function of whichever name
computed it, jitted, mapped or inline: the calls that made an operand are looked
at, and their known factors and shifts compared with the function's definition.
"""

import math

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_patterns import (
    above_zero,
    common,
    inverse,
    is_a,
    line,
    made_by,
    multiples,
    near,
    operand,
    scaled_by,
    shifted,
)
from diffai_jax.graph.jax_piecewise import celu, elu_of
from diffai_jax.graph.jax_softmax import softmax, sum_of_exponentials
from diffai_jax.graph.jax_values import number
from diffai_jax.types import Array

scale_shift = transformers.scale_shift
_SQRT_HALF = math.sqrt(0.5)
# Of GELU by tanh (Hendrycks and Gimpel 2016).
_GELU_STEEPNESS, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715
# Roundings of a factor that is computed from several of the network's.
_TERMS = 4
# SELU's constants (Klambauer et al. 2017).
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def product(reader, x: Recording, y: Recording) -> Recording:
  """x · y; squares, SiLU, both GELUs."""
  if x.number == y.number:
    return transformers.square(x)
  for value, gate in ((x, y), (y, x)):
    found = _gated(reader, value, gate)
    if found is not None:
      return found
  return transformers.multiply(x, y)


def _gated(reader, x: Recording, gate: Recording) -> Recording | None:
  """x · gate, if the gate is a known function of what x is a multiple of."""
  outer = line(reader, gate)
  call = made_by(reader, outer.root)
  if call is None:
    return None
  if call.transformer == "sigmoid" and not outer.shift:
    # a·z·sigmoid(c·z) = a/c · silu(c·z).
    inner = operand(reader, outer.root, 0)
    found = multiples(reader, x, inner)
    if found and found[1].factor:
      factor = outer.factor * found[0].factor / found[1].factor
      return scaled_by(reader, transformers.silu(inner), factor, _TERMS)
  if call.transformer == "erf":
    # a·z·(s + s·erf(z/√2)) = 2·a·s·gelu(z), and erf(-z) = -erf(z).
    found = multiples(reader, x, operand(reader, outer.root, 0))
    if found and near(x, abs(found[1].factor), _SQRT_HALF) and near(
        x, math.copysign(outer.factor, outer.factor * found[1].factor),
        outer.shift,
    ):
      factor = 2 * outer.shift * found[0].factor
      return scaled_by(reader, transformers.gelu(found[0].root), factor, _TERMS)
  if call.transformer == "tanh" and near(x, outer.factor, outer.shift):
    found = _gelu_argument(reader, operand(reader, outer.root, 0))
    inner = found and multiples(reader, x, found)
    if inner and inner[1].factor == 1:
      factor = 2 * outer.shift * inner[0].factor
      result = transformers.gelu(found, approximate=True)
      return scaled_by(reader, result, factor, _TERMS)
  return None


def _gelu_argument(reader, x: Recording) -> Recording | None:
  """z, if x is √(2/π)·(z + 0.044715·z³)."""
  outer = line(reader, x)
  if not is_a(reader, outer.root, "add") or outer.shift:
    return None
  for place in (0, 1):
    cube = line(reader, operand(reader, outer.root, place))
    z = operand(reader, outer.root, 1 - place)
    base = _cubed(reader, cube.root)
    found = base and common(reader, z, base)
    if found and found[0][1:] == found[1][1:] and not cube.shift and near(
        x, outer.factor, _GELU_STEEPNESS
    ) and near(x, cube.factor, _GELU_CUBE):
      return z
  return None


def _cubed(reader, x: Recording) -> Recording | None:
  """z, if x is z³."""
  if not is_a(reader, x, "multiply"):
    return None
  for place in (0, 1):
    squared, z = operand(reader, x, place), operand(reader, x, 1 - place)
    if is_a(reader, squared, "square"):
      if operand(reader, squared, 0).number == z.number:
        return z
  return None


def total(reader, x: Recording, y: Recording) -> Recording:
  """x + y; softplus as log(exp(a) + exp(b)) is computed, CELU."""
  for left, right in ((x, y), (y, x)):
    found = _softplus(reader, left, right) or celu(reader, left, right)
    if found is not None:
      return found
  return transformers.add(x, y)


def _softplus(reader, most: Recording, rest: Recording) -> Recording | None:
  """max(a, b) + log(1 + exp(-|a - b|)) = b + softplus(a - b)."""
  if not is_a(reader, rest, "softplus"):
    return None
  distance = line(reader, operand(reader, rest, 0))
  if (distance.factor, distance.shift) != (-1, 0) or not is_a(
      reader, distance.root, "absolute"
  ):
    return None
  difference = operand(reader, distance.root, 0)
  call = made_by(reader, most)
  if call is None:
    return None
  if call.transformer == "maximum" and is_a(reader, difference, "subtract"):
    first, second = (operand(reader, most, n) for n in (0, 1))
    if made_by(reader, difference).inputs == (first.number, second.number):
      return transformers.add(transformers.softplus(difference), second)
  if call.transformer == "relu" or (
      call.transformer == "clip" and "high" not in call.arrays
  ):
    a = operand(reader, most, 0)
    least = 0.0 if call.transformer == "relu" else number(call.arrays["low"])
    found = line(reader, difference, a.number)
    if least is not None and found == (found.root, 1, -least) and (
        found.root.number == a.number
    ):
      return shifted(reader, transformers.softplus(difference), least)
  return None


def quotient(reader, x: Recording, y: Recording) -> Recording:
  """x / y; softmax, softsign."""
  found = softmax(reader, x, y)
  if found is not None:
    return found
  outer = line(reader, y)
  if is_a(reader, outer.root, "absolute") and (outer.factor, outer.shift) == (1, 1):
    # z/(1 + |z|) = 1/(1 + relu(-z)) - 1/(1 + relu(z)), either nowhere falling.
    z = operand(reader, outer.root, 0)
    if z.number == x.number:
      sides = [
          inverse(reader, scale_shift(transformers.relu(side), 1.0, 1.0))
          for side in (scale_shift(z, -1.0, 0.0), z)
      ]
      return transformers.subtract(*sides)
  return transformers.multiply(x, inverse(reader, y))


def fraction(reader, constant: Array, x: Recording) -> Recording:
  """constant / x; 1 / (1 + exp(z)) is a sigmoid."""
  found = line(reader, x)
  if is_a(reader, found.root, "exp") and (found.factor, found.shift) == (1, 1):
    z = operand(reader, found.root, 0)
    one = transformers.sigmoid(scaled_by(reader, z, -1.0))
  else:
    one = inverse(reader, x)
  return scaled_by(reader, one, constant)


def logarithm(reader, x: Recording) -> Recording:
  """log(x); log(1 + exp(z)) is a softplus, a softmax's sum is at least 1."""
  found = line(reader, x)
  if is_a(reader, found.root, "exp") and (found.factor, found.shift) == (1, 1):
    return transformers.softplus(operand(reader, found.root, 0))
  bounded = sum_of_exponentials(reader, x)
  return transformers.log(above_zero(reader, x if bounded is None else bounded))


def scaled(reader, x: Recording, constant: Array) -> Recording:
  """constant · x; SELU."""
  by = number(constant)
  if by is not None and near(x, by, _SELU_SCALE):
    z = elu_of(reader, x, _SELU_ALPHA)
    if z is not None:
      return transformers.selu(z)
  return scaled_by(reader, x, constant)


def variance(reader, x: Recording) -> Recording | None:
  """The mean of (z - mean(z))², if x is mean(z²) - mean(z)².

  Both are equal, and the first is nowhere negative for any z of an element,
  while a bound of the difference loses that its parts move together.
  """
  if not is_a(reader, x, "subtract"):
    return None
  squares, root = (line(reader, operand(reader, x, n)) for n in (0, 1))
  if not is_a(reader, root.root, "square") or (root.factor, root.shift) != (1, 0):
    return None
  mean = line(reader, operand(reader, root.root, 0))
  sums = [found.root for found in (squares, mean)]
  if not all(is_a(reader, total, "sum_axes") for total in sums) or (
      squares.shift, mean.shift
  ) != (0, 0):
    return None
  calls = [made_by(reader, total) for total in sums]
  squared, z = (operand(reader, total, 0) for total in sums)
  if calls[0].options != calls[1].options or not is_a(reader, squared, "square"):
    return None
  if operand(reader, squared, 0).number != z.number:
    return None
  axes = dict(calls[1].options)["axes"]
  count = math.prod(z.shape[1 + axis] for axis in axes)
  if not all(near(x, f.factor * count, 1.0) for f in (squares, mean)):
    return None
  kept = [1 if a in axes else n for a, n in enumerate(z.shape[1:])]
  middle = transformers.reshape(operand(reader, root.root, 0), tuple(kept))
  middle = transformers.broadcast(middle, z.shape[1:])
  total = transformers.sum_axes(
      transformers.square(transformers.subtract(z, middle)), axes
  )
  return scale_shift(total, 1 / count, 0.0, terms=2)
