"""Functions of several pieces: ReLUs, cuts, ELU and its relatives.

A selection by a comparison with the input has bounds only where its pieces are
known to meet; otherwise it jumps, and a rounding of the comparison may take the
other side of the jump.
"""

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_patterns import (
    Line,
    clipped,
    is_a,
    line,
    made_by,
    near,
    operand,
    scaled_by,
    shifted,
)
from diffai_jax.graph.jax_values import number

scale_shift = transformers.scale_shift


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
  cut = _cut(reader, x, at, below, above)
  if cut is not None:
    return cut
  right = _piece(reader, above, x)
  if right is None:
    return None
  if at == 0 and right.shift == 0 and isinstance(below, Recording):
    found = _exponential(reader, below)
    if found is not None and found[0].number == x.number:
      return _elu(reader, x, right.factor, *found[1:3])
  left = _piece(reader, below, x)
  if left is None:
    return None
  height = left.factor * at + left.shift
  if height != right.factor * at + right.shift:
    return None
  return _bent(reader, x, at, height, left.factor, right.factor)


def _piece(reader, piece, x: Recording) -> Line | None:
  """A piece as a line of x; None if it is none."""
  if not isinstance(piece, Recording):
    constant = number(piece)
    return None if constant is None else Line(x, 0.0, constant)
  found = line(reader, piece, x.number)
  return found if found.root.number == x.number else None


def _cut(reader, x: Recording, at: float, below, above) -> Recording | None:
  """Where one piece is the number `at`, and the other x or x cut before."""
  for piece, constant, limits in (
      (below, above, (None, at)), (above, below, (at, None))
  ):
    if isinstance(constant, Recording) or number(constant) != at:
      continue
    if not isinstance(piece, Recording):
      continue
    if piece.number == x.number:
      return clipped(reader, x, *limits)
    call = made_by(reader, piece)
    other = "low" if limits[0] is None else "high"
    if call.transformer == "clip" and operand(
        reader, piece, 0
    ).number == x.number and set(call.arrays) == {other}:
      return clipped(reader, piece, *limits)
  return None


def _bent(
    reader, x: Recording, at: float, height: float, left: float, right: float
) -> Recording:
  """The function that bends at `at`, of two slopes."""
  if (at, height) == (0, 0):
    if (left, right) == (0, 1):
      return transformers.relu(x)
    if (left, right) == (-1, 1):
      return transformers.absolute(x)
    if right == 1 and 0 <= left <= 1:
      return transformers.leaky_relu(x, left)
  over = transformers.relu(shifted(reader, x, -at))
  if 0 <= left <= right:
    rest = scale_shift(x, left, height - left * at)
    return transformers.add(scale_shift(over, right - left, 0.0), rest)
  under = transformers.relu(scale_shift(x, -1.0, at))
  return transformers.add(
      scale_shift(over, right, height), scale_shift(under, -left, 0.0)
  )


def _exponential(
    reader, x: Recording
) -> tuple[Recording, float, float, bool] | None:
  """x as a·(exp(k·z) - 1), or of min(z, 0) in place of z, with k > 0.

  Returns:
    (z, a, k, whether z is cut at 0); None if x is nothing of the kind.
  """
  outer = line(reader, x)
  if not is_a(reader, outer.root, "exp") or not near(
      x, -outer.shift, outer.factor
  ):
    return None
  inner = line(reader, operand(reader, outer.root, 0))
  if inner.shift or inner.factor <= 0:
    return None
  z, call = inner.root, made_by(reader, inner.root)
  cut = call is not None and call.transformer == "clip" and set(
      call.arrays
  ) == {"high"} and number(call.arrays["high"]) == 0
  return operand(reader, z, 0) if cut else z, outer.factor, inner.factor, cut


def _elu(
    reader, z: Recording, slope: float, factor: float, steepness: float
) -> Recording:
  """slope·z where z > 0, factor·(exp(steepness·z) - 1) where z < 0."""
  own = factor * steepness
  if near(z, slope, own):
    return scaled_by(
        reader, transformers.elu(scaled_by(reader, z, steepness)), factor
    )
  if 0 <= own <= slope:
    bent = transformers.elu(scaled_by(reader, z, steepness))
  else:  # Of what is below 0 alone, so that no part falls where the whole rises.
    under = transformers.relu(scale_shift(z, -1.0, 0.0))
    bent, own = transformers.elu(scale_shift(under, -steepness, 0.0)), 0.0
  over = scale_shift(transformers.relu(z), slope - own, 0.0)
  return transformers.add(scale_shift(bent, factor, 0.0), over)


def celu(reader, positive: Recording, rest: Recording) -> Recording | None:
  """relu(z) + a·(exp(min(z, 0)/a) - 1), times any factor."""
  above = line(reader, positive)
  below = _exponential(reader, rest)
  if below is None or above.shift or not is_a(reader, above.root, "relu"):
    return None
  z, factor, steepness, cut = below
  if not cut or operand(reader, above.root, 0).number != z.number:
    return None
  return _elu(reader, z, above.factor, factor, steepness)


def elu_of(reader, x: Recording, factor: float) -> Recording | None:
  """z, if `_elu` made x of it with slope and steepness 1 and a factor over 1."""
  if not is_a(reader, x, "add"):
    return None
  bent, over = (line(reader, operand(reader, x, n)) for n in (0, 1))
  if not is_a(reader, bent.root, "elu") or not is_a(reader, over.root, "relu"):
    return None
  z = operand(reader, over.root, 0)
  under = line(reader, operand(reader, bent.root, 0))
  if (under.factor, under.shift) != (-1, 0) or not is_a(reader, under.root, "relu"):
    return None
  turned = line(reader, operand(reader, under.root, 0), z.number)
  same = turned.root.number == z.number and turned[1:] == (-1, 0)
  exact = over[1:] == (1, 0) and bent.shift == 0 and near(x, bent.factor, factor)
  return z if same and exact else None
