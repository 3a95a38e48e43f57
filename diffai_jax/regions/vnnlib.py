"""VNN-LIB 1.0: properties in files, as regions and specs; read and written.

A file states the counterexample: it declares inputs X_i and outputs Y_j, and
asserts what they would have to be. The property holds ("unsat") if no input in
its boxes gives an output that all assertions are true of. What is read is what
has to be proved: the negation of the assertions on outputs.
"""

from collections.abc import Sequence
import decimal
from fractions import Fraction
import math
import os
import re

import jax
import numpy as np

from diffai_jax.regions.box_bounds import Bounds
from diffai_jax.regions.specs import Spec
from diffai_jax.regions.vnnlib_formula import Case, Property, Row, parsed
from diffai_jax.regions.vnnlib_syntax import read_text
from diffai_jax.storage import files
from diffai_jax.types import Array, UsageError, shown


def read_vnnlib(
    path: str | os.PathLike,
    input_shape: Sequence[int] | None = None,
    dtype=np.float32,
) -> list[tuple[Bounds, Spec]]:
  """The regions of a property, and what each output of theirs must fulfil.

  The property holds if each spec is proved over its region. There is one pair for
  each box of inputs; boxes without a point are left out, so that there may be
  none. An unsafe set OR_i AND_j (a_ij·y ≤ b_ij) becomes a spec whose group i has
  the rows b_ij - a_ij·y < 0: see `Spec`.

  Numbers are taken as the decimals that they are: bounds are rounded outwards to
  the floating-point type, offsets against the proof. Rows are multiplied by whole
  numbers where that makes their coefficients exact.

  Args:
    path: a file, gzipped or not.
    input_shape: of one example, to which X_0, X_1, ... are reshaped in order; None
      leaves them a vector.
    dtype: of bounds and rows.

  Returns:
    (region of one example [1, ...], spec) for each box.

  Raises:
    UsageError: in one line with line and column, if the file says something else.
  """
  path = os.fspath(path)
  found = parsed(read_text(path), shown(path)[1:-1])
  shape = (found.inputs,) if input_shape is None else tuple(input_shape)
  if math.prod(shape) != found.inputs:
    raise UsageError(
        f"{shown(path)} has {found.inputs} inputs X_i; the network takes"
        f" {list(shape)}: give the property of this network"
    )
  by_box: dict[int, list[Case]] = {}
  for case in found.cases:
    by_box.setdefault(id(case.box), []).append(case)
  return [
      (_region(cases[0].box, shape, dtype), _spec(cases, found, dtype, path))
      for cases in by_box.values()
  ]


def _region(box: tuple, shape: tuple[int, ...], dtype) -> Bounds:
  lower, upper = (
      np.array([_rounded(pair[end], dtype, up=bool(end)) for pair in box], dtype)
      for end in (0, 1)
  )
  return Bounds(lower.reshape(1, *shape), upper.reshape(1, *shape))


def _spec(cases: list[Case], found: Property, dtype, path: str) -> Spec:
  rows, offsets, groups = [], [], []
  for number, case in enumerate(cases):
    # Where nothing is asserted of outputs, 0 < 0 says that nothing can be proved.
    for row in case.rows or (Row((), Fraction(0)),):
      coefficients = np.zeros(found.outputs, dtype)
      scale = _scale(row, dtype)
      if scale is None:
        raise UsageError(
            f"{shown(path)} has a constraint whose coefficients are no numbers of"
            f" {np.dtype(dtype).name}: "
            f"{', '.join(str(float(c)) for _, c in row.terms)}; write them with"
            f" fewer digits, or read it with dtype=float64"
        )
      for index, coefficient in row.terms:
        coefficients[index] = -float(coefficient * scale)
      rows.append(coefficients)
      offsets.append(_rounded(-row.constant * scale, dtype, up=True))
      groups.append(number)
  return Spec(np.array(rows), np.array(offsets, dtype), tuple(groups))


def _scale(row: Row, dtype) -> Fraction | None:
  """What makes a row's coefficients exact numbers of a type; None if nothing."""
  values = [coefficient for _, coefficient in row.terms]
  shared = Fraction(
      math.lcm(*(v.denominator for v in values)),
      max(1, math.gcd(*(v.numerator for v in values))),
  )
  for scale in (Fraction(1), shared):
    if all(_exact(v * scale, dtype) for v in values):
      return scale
  return None


def _exact(value: Fraction, dtype) -> bool:
  held = _nearest(value, dtype)
  return bool(np.isfinite(held)) and Fraction(float(held)) == value


def _nearest(value: Fraction, dtype) -> np.generic:
  try:
    number = float(value)
  except OverflowError:
    number = math.copysign(math.inf, value)
  with np.errstate(over="ignore"):
    return np.dtype(dtype).type(number)


def _rounded(value: Fraction, dtype, up: bool) -> np.generic:
  """The number of a type next to a value, not below it or not above it."""
  held = _nearest(value, dtype)
  toward = np.dtype(dtype).type(np.inf if up else -np.inf)
  while not np.isinf(held) or held != toward:
    # Infinity is beyond every value.
    on_the_way = (
        float(held) if np.isinf(held) else Fraction(float(held))
    )
    if on_the_way >= value if up else on_the_way <= value:
      return held
    held = np.nextafter(held, toward)
  return held


def write_vnnlib(
    region, spec: Spec, path: str | os.PathLike, images: Array | None = None
) -> None:
  """Writes a region of one example and a spec as a property of VNN-LIB.

  Numbers are written as the decimals that they are exactly, so that reading gives
  the same bounds and rows.

  Args:
    region: `Bounds`, or another, of which the box around it is written.
    spec: for one example.
    path: of the file.
    images: that the region is around, [1, ...].

  Raises:
    UsageError: if there is more than one example, a bound or row is not finite,
      or the file cannot be written.
  """
  lower, upper = (np.asarray(bound) for bound in _box(region, images))
  rows, offsets = np.asarray(spec.rows), np.asarray(spec.offsets)
  groups = spec.check()
  rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
  offsets = offsets[0] if offsets.ndim == 2 and len(offsets) == 1 else offsets
  if len(lower) != 1 or rows.ndim != 2 or offsets.ndim != 1:
    raise UsageError(
        f"a property is about one example; bounds are {list(lower.shape)}, rows"
        f" {list(np.shape(spec.rows))}: write one file for each"
    )
  for array in (lower, upper, rows, offsets):
    if not np.isfinite(array).all():
      raise UsageError(
          "a property of VNN-LIB has finite bounds and rows only; give such"
      )
  lines = [f"(declare-const X_{i} Real)" for i in range(lower.size)]
  lines += [f"(declare-const Y_{j} Real)" for j in range(rows.shape[1])]
  for i, (low, high) in enumerate(zip(lower.reshape(-1), upper.reshape(-1))):
    lines.append(f"(assert (>= X_{i} {_decimal(low)}))")
    lines.append(f"(assert (<= X_{i} {_decimal(high)}))")
  cases = [
      [_constraint(rows[s], offsets[s]) for s, g in enumerate(groups) if g == group]
      for group in range(max(groups) + 1)
  ]
  if len(cases) == 1:
    lines += [f"(assert {constraint})" for constraint in cases[0]]
  else:
    lines.append("(assert (or")
    lines += [f"    (and {' '.join(case)})" for case in cases]
    lines.append("))")
  with files.replacing(os.fspath(path)) as file:
    file.write("\n".join(lines) + "\n")


def _box(region, images: Array | None) -> tuple[Array, Array]:
  """A region's bounds; explicit ones as they are."""
  if isinstance(region, Bounds) and images is None:
    region.bounds()  # Which checks them.
    lower, upper = (jax.device_get(b) for b in (region.lower, region.upper))
    return np.broadcast_arrays(lower, upper)
  return region.bounds(images)


def _constraint(row: np.ndarray, offset: float) -> str:
  """The counterexample's side of a row: C·y + d ≥ 0."""
  terms = [(j, c) for j, c in enumerate(row) if c]
  plus = [j for j, c in terms if c == 1]
  minus = [j for j, c in terms if c == -1]
  if len(plus) + len(minus) == len(terms) and len(plus) < 2 and len(minus) < 2:
    if plus and minus and not offset:
      return f"(>= Y_{plus[0]} Y_{minus[0]})"
    if plus and not minus:
      return f"(>= Y_{plus[0]} {_decimal(-offset)})"
    if minus and not plus:
      return f"(<= Y_{minus[0]} {_decimal(offset)})"
  products = " ".join(f"(* {_decimal(c)} Y_{j})" for j, c in terms)
  total = f"(+ {products})" if len(terms) > 1 else products or "0.0"
  return f"(>= {total} {_decimal(-offset)})"


def _decimal(value: float) -> str:
  """The decimal that a float is exactly."""
  text = format(decimal.Decimal(float(value) + 0.0), "f")
  return text if re.search(r"\.", text) else text + ".0"
