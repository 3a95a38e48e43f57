"""Explicit bounds: against exact fractions and random points."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.domains import lower, upper
from diffai_jax.regions import Bounds

_RANDOM = np.random.default_rng(0)
_ENDS = np.sort(_RANDOM.normal(size=(2, 3, 4, 2)), axis=0)
_ENDS[1, :, 1] = _ENDS[0, :, 1]  # Fixed inputs.
_KEYS = jax.random.split(jax.random.key(0), 3)


def test_bounds_of_doubles_are_rounded_outwards():
  low, high = Bounds(*_ENDS).bounds()
  assert low.dtype == high.dtype == np.float32
  for found, wanted, side in ((low, _ENDS[0], 1), (high, _ENDS[1], -1)):
    for a, b in zip(np.asarray(found).flat, wanted.flat):
      assert side * Fraction(float(a)) <= side * Fraction(float(b))
    np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=1e-7)


def test_tiny_bounds_are_inside_of_what_the_compiler_keeps():
  """Numbers so small that XLA takes 0 for them."""
  low, high = Bounds(np.array([[-1e-40]]), np.array([[1e-40]])).bounds()
  assert low[0, 0] < -1e-39 and high[0, 0] > 1e-39
  low, high = Bounds(np.array([[1e-40]]), np.array([[1e-39]])).bounds()
  assert low[0, 0] == 0 and high[0, 0] > 1e-39


def test_what_floats_hold_is_exact():
  ends = _ENDS.astype(np.float32)
  for given in (ends, ends.astype(float), jnp.asarray(ends)):
    low, high = Bounds(*given).bounds()
    np.testing.assert_array_equal(low, ends[0])
    np.testing.assert_array_equal(high, ends[1])
  element = Bounds(*ends).element()
  np.testing.assert_array_equal(element.center[:, 1], ends[0][:, 1])
  np.testing.assert_array_equal(element.uncorrelated[:, 1], 0)
  assert np.all(lower(element) <= low) and np.all(high <= upper(element))


def test_one_examples_bounds_are_for_all_images():
  images = np.zeros((5, 4, 2), np.float32)
  low, high = Bounds(*_ENDS[:, 0].astype(np.float32)).bounds(images)
  assert low.shape == high.shape == images.shape
  np.testing.assert_array_equal(low[3], _ENDS[0, 0].astype(np.float32))


def test_points_of_the_region():
  region = Bounds(*_ENDS)
  low, high = region.bounds()
  drawn = region.sample(_KEYS)
  far = _RANDOM.normal(size=low.shape).astype(np.float32)
  near = region.project(far)
  for points in (drawn, near):
    assert np.all(low <= points) and np.all(points <= high)
  inside = (low <= far) & (far <= high)
  np.testing.assert_array_equal(near[inside], far[inside])
  np.testing.assert_allclose(
      np.abs(region.steepest(far)), (high - low) / 2, atol=1e-6
  )


def test_the_largest_of_a_linear_function():
  region = Bounds(*_ENDS.astype(np.float32))
  rows = _RANDOM.normal(size=(3, 5, 4, 2)).astype(np.float32)
  found = np.asarray(region.linear_max(rows))
  wide = rows.astype(float)
  low, high = (np.asarray(b, float)[:, None] for b in region.bounds())
  exact = np.maximum(wide * low, wide * high).sum((2, 3))
  assert np.all(found >= exact)
  size = np.maximum(np.abs(wide * low), np.abs(wide * high)).sum((2, 3))
  assert np.all(found <= exact + 1e-5 * size)


@pytest.mark.parametrize("low, high, message", [
    ([[1.0]], [[0.0]], "1 is a lower bound that is not below"),
    ([[np.nan]], [[0.0]], "nan is a lower bound"),
    (np.zeros((1, 2)), np.zeros((1, 3)), r"lower bounds are \[1, 2\], upper"),
])
def test_what_is_no_box(low, high, message):
  with pytest.raises(ValueError, match=message):
    Bounds(np.array(low), np.array(high)).bounds()


def test_images_of_another_shape_are_refused():
  with pytest.raises(ValueError, match=r"images \[2, 3\]; expected"):
    Bounds(np.zeros((1, 2)), np.ones((1, 2))).bounds(np.zeros((2, 3)))


def test_traced_nonsense_is_nan():
  run = jax.jit(lambda region: region.bounds())
  for end in run(Bounds(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]))):
    assert np.isnan(end[0, 0]) and not np.isnan(end[0, 1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("end", [0.3, 0.7, 1e-40])
def test_bounds_of_another_type_are_rounded_outwards(end):
  """Beside float32, also of the weak type that JAX gives to Python's numbers."""
  zero = np.zeros((1, 2), np.float32)
  for given in (end, jnp.asarray(end), np.float64(end)):
    for run in (lambda f: f, jax.jit):
      upper = run(lambda end: Bounds(zero, end).bounds()[1])(given)
      lower = run(lambda end: Bounds(-end, zero).bounds()[0])(given)
      assert np.all(np.asarray(upper, float) >= end)
      assert np.all(np.asarray(lower, float) <= -end)
