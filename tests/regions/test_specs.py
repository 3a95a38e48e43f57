"""Specs: groups by their definition, labels and targets by comparison."""

import itertools

import jax
import numpy as np
import pytest

from diffai_jax.regions import Spec, labels, linear, targets

_RANDOM = np.random.default_rng(0)
_Z = _RANDOM.normal(size=(50, 4)).astype(np.float32)
_holds = jax.jit(lambda spec, z: spec.holds(z))


def test_every_group_has_some_row():
  groups = (1, 0, 1, 2, 0)
  bounds = np.array(list(itertools.product((-1.0, 1.0), repeat=5)))
  spec = linear(np.zeros((5, 4)), np.zeros(5), groups)
  wanted = [
      all(any(b < 0 for b, g in zip(row, groups) if g == group)
          for group in range(3))
      for row in bounds
  ]
  np.testing.assert_array_equal(spec.proved(bounds), wanted)
  np.testing.assert_array_equal(spec.margins(bounds) > 0, wanted)


def test_nan_and_zero_prove_nothing():
  spec = linear(np.zeros((2, 4)), np.zeros(2))
  bounds = np.array([[-1, -1], [-1, np.nan], [-1, 0], [np.nan, np.nan]])
  np.testing.assert_array_equal(spec.proved(bounds), [True, False, False, False])
  some = linear(np.zeros((2, 4)), np.zeros(2), (0, 0))
  np.testing.assert_array_equal(some.proved(bounds), [True, True, True, False])
  assert not np.any(labels(np.array([0]), 4).holds(np.full((1, 4), np.nan)))


def test_labels_are_the_largest_logit():
  y = _RANDOM.integers(4, size=50)
  spec = labels(y, 4)
  assert spec.rows.shape == (50, 3, 4)
  np.testing.assert_array_equal(_holds(spec, _Z), _Z.argmax(1) == y)
  others = np.array([np.delete(z, k) - z[k] for z, k in zip(_Z, y)])
  np.testing.assert_allclose(spec.values(_Z), others, atol=1e-6)
  tie = np.ones((1, 4), np.float32)
  assert not labels(np.array([2]), 4).holds(tie)[0]


def test_targets_are_below_the_label():
  y = _RANDOM.integers(4, size=50)
  one = (y + _RANDOM.integers(1, 4, size=50)) % 4
  rows = np.arange(50)
  np.testing.assert_array_equal(
      _holds(targets(y, one, 4), _Z), _Z[rows, one] < _Z[rows, y]
  )
  two = np.stack([one, (y + 1) % 4], 1)
  np.testing.assert_array_equal(
      _holds(targets(y, two, 4), _Z),
      np.all(_Z[rows[:, None], two] < _Z[rows, y][:, None], 1),
  )


def test_linear_rows_and_offsets():
  rows, offsets = _RANDOM.normal(size=(3, 4)), _RANDOM.normal(size=3)
  spec = linear(rows.astype("f"), offsets.astype("f"))
  np.testing.assert_allclose(
      spec.values(_Z), _Z @ rows.T + offsets, atol=1e-5
  )
  np.testing.assert_array_equal(
      _holds(spec, _Z), np.all(_Z @ rows.T + offsets < 0, 1)
  )


@pytest.mark.parametrize("make, message", [
    (lambda: linear(np.zeros(3), np.zeros(3)), r"rows of a spec are \[3\]"),
    (lambda: linear(np.zeros((0, 3)), np.zeros(0)), "at least one row"),
    (lambda: linear(np.zeros((2, 3)), np.zeros(3)), r"offsets of a spec are"),
    (lambda: linear(np.zeros((2, 3)), np.zeros(2), (0, 2)), r"groups of a spec"),
    (lambda: linear(np.zeros((2, 3)), np.zeros(2), (0,)), "expected 2 numbers"),
    (lambda: linear(np.zeros((2, 3)), np.zeros(2)).proved(np.zeros((1, 3))),
     r"bounds are \[1, 3\]"),
    (lambda: linear(np.zeros((2, 3)), np.zeros(2)).values(np.zeros((1, 4))),
     r"outputs are \[1, 4\]"),
    (lambda: labels(np.array([4]), 4), "4 is no label; expected one from 0 to 3"),
    (lambda: labels(np.array([-1]), 4), "-1 is no label"),
    (lambda: labels(np.array([0.5]), 4), "expected whole numbers"),
    (lambda: labels(np.array([0]), 1), "1 classes"),
    (lambda: targets(np.array([1]), np.array([1]), 4), "both label and target"),
    (lambda: targets(np.array([1]), np.array([1, 2]), 4), r"targets are \[2\]"),
])
def test_what_is_no_spec(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_traced_labels_that_are_none_prove_nothing():
  run = jax.jit(lambda y: labels(y, 4).holds(_Z[:2]))
  y = _Z[:2].argmax(1)
  assert run(y).all()
  assert not run(np.array([4, -1])).any()
