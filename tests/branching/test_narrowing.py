"""Boxes that are cut down: no point that may break a group is lost."""

from hypothesis import given, strategies as st
import numpy as np

from diffai_jax.branching.narrowing import narrowed


def _rows(rng, low, high, dtype):
  """Slopes of rows, and their largest values in each box, rounded up."""
  count, n = low.shape
  slopes = rng.normal(size=(count, rng.integers(1, 4), n)).astype(dtype)
  slopes *= 10.0 ** rng.integers(-6, 6, (1, 1, n)).astype(dtype)
  slopes[rng.uniform(size=slopes.shape) < 0.2] = 0
  width = (high - low).astype(float)
  spread = (np.abs(slopes.astype(float)) * width[:, None]).sum(axis=2)
  share = rng.uniform(-0.1, 1, slopes.shape[:2]) ** 3
  bounds = (share * spread).astype(dtype)
  return slopes, np.nextafter(bounds, dtype(np.inf))


def _values(low, high, slopes, bounds, points):
  """Rows at points [N, P, n]: b less what they fall by from the best corner."""
  low, high, slopes, bounds = (
      np.asarray(a, np.longdouble) for a in (low, high, slopes, bounds)
  )
  best = np.where(slopes > 0, high[:, None], low[:, None])
  away = np.abs(best[:, :, None] - points[:, None])
  return bounds[..., None] - (np.abs(slopes)[:, :, None] * away).sum(axis=3)


@given(seed=st.integers(0, 10**6), wide=st.booleans())
def test_what_is_cut_off_is_proved(seed, wide):
  rng, dtype = np.random.default_rng(seed), np.float64 if wide else np.float32
  low = rng.normal(size=(20, 3)).astype(dtype)
  low *= 10.0 ** rng.integers(-4, 5, (20, 1)).astype(dtype)
  width = np.abs(low) * 10.0 ** rng.integers(-7, 2, (20, 3)).astype(dtype)
  high = np.where(rng.uniform(size=low.shape) < 0.1, low, low + width)
  high = high.astype(dtype)
  slopes, bounds = _rows(rng, low, high, dtype)
  kept = narrowed(low, high, slopes, bounds)
  assert kept.low.dtype == kept.high.dtype == dtype
  assert np.all(low <= kept.low) and np.all(kept.high <= high)
  share = rng.uniform(size=(20, 300, 3)) ** rng.choice([0.01, 1, 100], (1, 300, 1))
  points = low[:, None] + share * (high - low)[:, None].astype(float)
  points = points.clip(low[:, None], high[:, None])
  least = _values(low, high, slopes, bounds, points).min(axis=1)
  inside = (kept.low[:, None] <= points) & (points <= kept.high[:, None])
  inside = inside.all(axis=2)
  rest = np.maximum(kept.rest, kept.bound)
  assert np.all(least <= np.where(inside, rest[:, None], kept.bound[:, None]))
  assert np.all(kept.bound < 0)


def test_a_corner_is_left_of_a_square():
  """x + y ≥ 1.5 in [0, 1]²: both are at least a half."""
  kept = narrowed(
      np.zeros((1, 2)), np.ones((1, 2)), np.ones((1, 1, 2)), np.full((1, 1), 0.5)
  )
  np.testing.assert_allclose(kept.low, 0.5, atol=1e-3)
  assert np.all(kept.high == 1) and kept.bound < 0 < kept.rest


def test_rows_that_exclude_each_other_leave_nothing():
  """x ≥ 0.6 and x ≤ 0.4."""
  kept = narrowed(
      np.zeros((1, 1)), np.ones((1, 1)), np.array([[[1.0], [-1.0]]]),
      np.array([[0.4, 0.4]]),
  )
  assert kept.rest < 0
  alone = narrowed(
      np.zeros((1, 1)), np.ones((1, 1)), np.array([[[1.0]]]), np.array([[0.4]])
  )
  assert alone.rest > 0


def test_bounds_that_are_no_numbers_cut_nothing():
  bounds = np.array([[np.nan], [np.inf], [0.5], [-1.0]])
  slopes = np.array([[[1.0]], [[1.0]], [[np.nan]], [[1.0]]])
  kept = narrowed(np.zeros((4, 1)), np.ones((4, 1)), slopes, bounds)
  assert np.all(kept.low == 0) and np.all(kept.high == 1)
  assert np.all(kept.bound == -np.inf)
  assert not np.any(kept.rest[:3] < 0) and kept.rest[3] < 0
