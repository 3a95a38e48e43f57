"""VNN-LIB: what is read against evaluated formulas; round trips; errors."""

from fractions import Fraction
import gzip

import numpy as np
import pytest

from diffai_jax.regions import Bounds, Linf, linear, read_vnnlib, write_vnnlib
from diffai_jax.types import UsageError

_DECLARED = "".join(
    f"(declare-const {name} Real)\n" for name in ("X_0", "X_1", "Y_0", "Y_1", "Y_2")
)
_BOX = """
(assert (>= X_0 0.1)) (assert (<= X_0 0.3)) ; a comment ) (
(assert (and (<= -0.5 X_1) (>= 0.25 X_1)))
"""


def _read(tmp_path, text, **options):
  path = tmp_path / "p.vnnlib"
  path.write_text(text)
  return read_vnnlib(path, **options)


def _outputs(seed=0):
  return np.random.default_rng(seed).normal(size=(200, 3)).astype(np.float32)


def test_boxes_are_rounded_outwards(tmp_path):
  (region, spec), = _read(tmp_path, _DECLARED + _BOX)
  for found, wanted, side in (
      (region.lower, ("0.1", "-0.5"), 1), (region.upper, ("0.3", "0.25"), -1),
  ):
    assert found.dtype == np.float32 and found.shape == (1, 2)
    for a, b in zip(found[0], wanted):
      exact = Fraction(b)
      assert side * Fraction(float(a)) <= side * exact
      inner = np.nextafter(a, np.float32(side * np.inf))
      assert a == float(exact) or side * Fraction(float(inner)) > side * exact
  # Nothing is asserted of outputs: every point is a counterexample.
  assert not spec.holds(_outputs()).any()


@pytest.mark.parametrize("asserted, unsafe", [
    ("(<= Y_0 Y_1)", lambda y: y[0] <= y[1]),
    ("(>= Y_0 0.5)", lambda y: y[0] >= 0.5),
    ("(<= 0.5 Y_0)", lambda y: y[0] >= 0.5),
    ("(and (<= Y_0 Y_1) (<= Y_2 -0.25))",
     lambda y: y[0] <= y[1] and y[2] <= -0.25),
    ("(or (<= Y_0 Y_1) (<= Y_2 -0.25))", lambda y: y[0] <= y[1] or y[2] <= -0.25),
    ("(or (and (>= Y_0 Y_1) (>= Y_0 Y_2)) (and (<= Y_1 0) (<= Y_2 0)))",
     lambda y: (y[0] >= y[1] and y[0] >= y[2]) or (y[1] <= 0 and y[2] <= 0)),
    ("(and (or (<= Y_0 0) (<= Y_1 0)) (or (>= Y_2 1) (>= Y_0 1)))",
     lambda y: (y[0] <= 0 or y[1] <= 0) and (y[2] >= 1 or y[0] >= 1)),
    ("(<= (+ (* 2.0 Y_0) (- Y_1) 0.5) (- Y_2 (* Y_0 0.25)))",
     lambda y: 2 * y[0] - y[1] + 0.5 <= y[2] - 0.25 * y[0]),
    ("(<= (* 0.1 Y_0) (+ (* 0.3 Y_1) 0.07))", lambda y: y[0] <= 3 * y[1] + 0.7),
])
def test_specs_are_the_negation(tmp_path, asserted, unsafe):
  """Outputs fulfil the spec if they are no counterexample."""
  (_, spec), = _read(tmp_path, f"{_DECLARED}{_BOX}(assert {asserted})")
  outputs = _outputs()
  wanted = [not unsafe(y.astype(float)) for y in outputs]
  assert 0 < sum(wanted) < len(wanted)
  np.testing.assert_array_equal(spec.holds(outputs), wanted)


def test_assertions_combine(tmp_path):
  """Several disjunctions and a shared row: as one conjunction of them."""
  text = _DECLARED + _BOX + """
(assert (or (<= Y_0 0.0) (<= Y_1 0.0)))
(assert (<= Y_2 1.0))
(assert (or (>= Y_1 Y_0) (>= Y_1 Y_2)))"""
  (_, spec), = _read(tmp_path, text)
  assert max(spec.groups) == 3
  outputs = _outputs()
  np.testing.assert_array_equal(spec.holds(outputs), [
      not ((y[0] <= 0 or y[1] <= 0) and y[2] <= 1 and (y[1] >= y[0] or y[1] >= y[2]))
      for y in outputs
  ])


def test_several_boxes_are_several_regions(tmp_path):
  text = _DECLARED + """
(assert (or
  (and (>= X_0 0.0) (<= X_0 0.25) (>= X_1 0.0) (<= X_1 1.0))
  (and (>= X_0 0.5) (<= X_0 0.75) (>= X_1 0.0) (<= X_1 1.0))
  (and (>= X_0 0.5) (<= X_0 0.25) (>= X_1 0.0) (<= X_1 1.0))
))
(assert (or (<= Y_0 Y_1) (<= Y_0 Y_2)))"""
  pairs = _read(tmp_path, text)
  assert [r.lower[0, 0] for r, _ in pairs] == [0, 0.5]  # The third is empty.
  for _, spec in pairs:
    assert spec.groups == (0, 1)


def test_cases_with_inputs_and_outputs(tmp_path):
  """Each box has its own spec; equal boxes share one."""
  text = _DECLARED + """
(assert (>= X_1 0.0)) (assert (<= X_1 1.0)) (assert (>= X_0 0.0))
(assert (or
  (and (<= X_0 0.25) (<= Y_0 Y_1)) (and (<= X_0 0.5) (<= Y_0 Y_2))
  (and (<= X_0 0.25) (<= Y_0 Y_2))))"""
  (first, both), (second, one) = _read(tmp_path, text)
  assert first.upper[0, 0] == 0.25 and both.groups == (0, 1)
  assert second.upper[0, 0] == 0.5 and one.groups == (0,)


def test_numbers_are_decimals(tmp_path):
  """Offsets are rounded against the proof."""
  text = f"{_DECLARED}{_BOX}(assert (>= Y_0 3.991125645861615))"
  (_, spec), = _read(tmp_path, text)
  assert Fraction(float(spec.offsets[0])) >= Fraction("-3.991125645861615")
  (_, wide), = _read(tmp_path, text, dtype=np.float64)
  assert wide.offsets[0] == pytest.approx(-3.991125645861615, rel=1e-15)


def test_rows_that_no_float_holds_are_refused(tmp_path):
  asserted = "(assert (<= (* 0.123456789012 Y_0) (* 0.98765432109 Y_1)))"
  with pytest.raises(UsageError, match="coefficients are no numbers of float32"):
    _read(tmp_path, _DECLARED + _BOX + asserted)
  (_, spec), = _read(tmp_path, _DECLARED + _BOX + asserted, dtype=np.float64)
  assert spec.rows[0, 1] / -spec.rows[0, 0] == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [(0, 0, 1, 2, 1), (0,) * 5, None])
def test_round_trip(tmp_path, dtype, groups):
  random = np.random.default_rng(1)
  ends = np.sort(random.normal(size=(2, 1, 2, 3)), axis=0).astype(dtype)
  ends[1, :, 1] = ends[0, :, 1]
  rows = random.normal(size=(5, 4)).astype(dtype)
  rows[1] = [1, 0, -1, 0]
  rows[2] = [0, 0, -1, 0]
  rows[3] = [0, 1, 0, 0]
  offsets = random.normal(size=5).astype(dtype)
  offsets[1] = 0
  spec = linear(rows, offsets, groups)
  path = tmp_path / "p.vnnlib"
  write_vnnlib(Bounds(*ends), spec, path)
  (region, found), = read_vnnlib(path, (2, 3), dtype)
  np.testing.assert_array_equal(region.lower, ends[0])
  np.testing.assert_array_equal(region.upper, ends[1])
  order = np.argsort(spec.check(), kind="stable")
  assert found.groups == tuple(np.asarray(spec.check())[order])
  np.testing.assert_array_equal(found.rows, rows[order])
  np.testing.assert_array_equal(found.offsets, offsets[order])


def test_balls_are_written_as_their_boxes(tmp_path):
  images = np.full((1, 3), 0.5, np.float32)
  path = tmp_path / "p.vnnlib"
  write_vnnlib(Linf(0.1), linear(np.eye(3), np.zeros(3)), path, images)
  (region, _), = read_vnnlib(path)
  np.testing.assert_array_equal(region.lower, Linf(0.1).bounds(images)[0])


@pytest.mark.parametrize("region, spec, message", [
    (Bounds(np.zeros((2, 3)), np.ones((2, 3))), linear(np.eye(3), np.zeros(3)),
     r"bounds are \[2, 3\]"),
    (Bounds(np.zeros((1, 3)), np.full((1, 3), np.inf)),
     linear(np.eye(3), np.zeros(3)), "finite"),
])
def test_what_cannot_be_written(tmp_path, region, spec, message):
  with pytest.raises(UsageError, match=message):
    write_vnnlib(region, spec, tmp_path / "p.vnnlib")


def test_gzipped_files(tmp_path):
  path = tmp_path / "p.vnnlib.gz"
  path.write_bytes(gzip.compress((_DECLARED + _BOX).encode()))
  assert len(read_vnnlib(path)) == 1
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(UsageError, match="cannot read"):
    read_vnnlib(path)
  path.write_bytes(b"\xff\xfe")
  with pytest.raises(UsageError, match="cannot read"):
    read_vnnlib(path)
  with pytest.raises(UsageError, match="cannot read .*nothing"):
    read_vnnlib(tmp_path / "nothing")


def test_shapes_that_do_not_fit_the_network(tmp_path):
  with pytest.raises(UsageError, match=r"has 2 inputs X_i; the network takes \[3\]"):
    _read(tmp_path, _DECLARED + _BOX, input_shape=(3,))


@pytest.mark.parametrize("text, message", [
    ("(assert (<= X_0 1.0)", r"line 6, column 1: '\(' is never closed"),
    ("(assert (<= X_0 1.0)))", r"line 6, column 22: '\)' closes nothing"),
    ("assert", "line 6, column 1: 'assert' stands outside"),
    ("(assert (<= X_0))", "line 6, column 9: .* compares 1 terms"),
    ("(assert (< X_0 1))", r"line 6, column 9: '\(< X_0 1\)' is no formula"),
    ("(assert (<= X_7 1))", "column 13: 'X_7' is neither a number nor declared"),
    ("(assert (<= X_0 Y_0))", "compares inputs with outputs"),
    ("(assert (<= X_0 X_1))", "compares several inputs"),
    ("(assert (<= (* Y_0 Y_1) 1))", "multiplies variables"),
    ("(assert (<= (/ Y_0 2) 1))", "is no term"),
    ("(assert (<= (+) 1))", "is no term"),
    ("(assert (<= Y_0 1e999999999))", "more digits than a number here can have"),
    ("(assert (<= Y_0 " + "9" * 5000 + "))", "more digits"),
    ("(assert (<= Y_0 nan))", "'nan' is neither"),
    ("(assert (<= Y_0 __import__))", "is neither"),
    ("(assert true)", "'true' is no formula"),
    ("(assert)", "is neither"),
    ("()", "is neither"),
    ("(declare-const X_0 Real)", "X_0 is declared twice; first in line 1"),
    ("(declare-const Z_0 Real)", "declares no variable"),
    ("(declare-const X_1 Int)", "declares no variable"),
    ("(declare-const X_3 Real)", "input X_2 is not declared"),
    ("(assert (>= X_0 0.0))", "X_0 has no upper bound"),
    ("(assert " + "(and " * 200 + ")" * 201, "more than 100 deep"),
    ("(" * 100_000, "more than 100 deep"),
    ("(assert (and " + "(or (<= Y_0 1) (<= Y_1 1))" * 40 + "))", "100000 cases"),
    ("(assert (or (<= Y_0 1) (<= Y_1 1)))" * 40, "100000 cases"),
], ids=lambda text: text[:30])
def test_errors_are_one_line_with_a_place(tmp_path, text, message):
  with pytest.raises(UsageError, match=message) as caught:
    _read(tmp_path, _DECLARED + text)
  assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_false_and_true_assertions(tmp_path):
  """No counterexample is one of something false: nothing is left to prove."""
  assert not _read(tmp_path, _DECLARED + _BOX + "(assert (<= 1 0))")
  (_, spec), = _read(tmp_path, _DECLARED + _BOX + "(assert (<= 0 1))")
  assert not spec.holds(_outputs()).any()
