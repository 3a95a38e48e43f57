"""Exact membership, against fractions."""

from fractions import Fraction

import numpy as np
import pytest

from diffai_jax.regions import L2, Bounds, Linf, contains, moved_inside
from diffai_jax.regions.membership import of_rows

_RANDOM = np.random.default_rng(0)


def _near(points, images, epsilon, low=0, high=1) -> bool:
  """Whether each |x - o| ≤ ε, in fractions, or x is o."""
  return all(
      p == o or (abs(Fraction(float(p)) - Fraction(float(o))) <= Fraction(float(e))
                 and low <= p <= high)
      for p, o, e in zip(*map(np.ravel, (points, images, epsilon)))
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("epsilon", [0.1, 8 / 255, 1e-9, 0.0, 1e-12, 0.7])
def test_the_largest_number_within_the_ball(dtype, epsilon):
  """Its end is inside, and the next number is not."""
  images = _RANDOM.uniform(size=(50, 7)).astype(dtype)
  region = Linf(epsilon, None)
  whole = np.full_like(images, epsilon, np.float64)
  for sign in (-1, 1):
    far = (images + sign * np.asarray(2, dtype)).astype(dtype)
    points = moved_inside(region, far, images)
    assert points.dtype == dtype and _near(points, images, whole, -9, 9)
    assert contains(region, points, images).all()
    beyond = np.nextafter(points, np.asarray(sign * np.inf, dtype))
    assert not contains(region, beyond, images).any()
    for p, o in zip(beyond.ravel(), images.ravel()):
      assert abs(Fraction(float(p)) - Fraction(float(o))) > Fraction(epsilon)


def test_the_range_and_each_epsilon_count():
  images = _RANDOM.uniform(size=(4, 3)).astype(np.float32)
  far = images + np.float32(3) * np.sign(_RANDOM.normal(size=(4, 3)))
  for epsilon, whole in (
      (e := np.array([0, 0.1, 0.2, 0.9]), e[:, None]),
      (v := np.array([0.3, 0, 0.1]), v),
  ):
    points = moved_inside(Linf(epsilon), far.astype(np.float32), images)
    assert _near(points, images, np.broadcast_to(whole, (4, 3)))
    rows = np.array([False, True, False, True])
    part = of_rows(Linf(epsilon), images.shape, rows)
    np.testing.assert_array_equal(
        moved_inside(part, far[rows].astype(np.float32), images[rows]),
        points[rows],
    )


def test_bounds_are_those_that_were_given():
  """In float64, though points are of float32; what is fixed stays so."""
  images = np.float32([[0.1, 0.5], [0.1, 0.7]])
  region = Bounds(np.array([0.1, 0.4]), np.array([0.1, 0.7]))
  points = moved_inside(region, np.float32([[0, 0], [1, 1]]), images)
  assert points[0, 0] == points[1, 0] == np.float32(0.1)
  assert points[0, 1] >= 0.4 and np.float64(points[1, 1]) <= 0.7
  assert not contains(region, np.float32([[0.2, 0.5]]), images[:1]).any()
  np.testing.assert_array_equal(
      of_rows(region, images.shape, [1]).lower, [[0.1, 0.4]]
  )


def test_a_euclidean_ball_is_not_left():
  images = _RANDOM.uniform(size=(30, 40)).astype(np.float32)
  region = L2(np.full(30, 0.5))
  way = _RANDOM.normal(size=images.shape)
  way /= np.linalg.norm(way, axis=1, keepdims=True)
  for length, inside in ((0.49, True), (0.51, False)):
    points = (images + length * way).astype(np.float32)
    moved = moved_inside(region, points, images)
    for p, o in zip(moved, images):
      square = sum((Fraction(float(a)) - Fraction(float(b)))**2
                   for a, b in zip(p, o))
      assert square <= Fraction(1, 4)
    assert (moved != images).any(axis=1).all() == inside
    clipped = np.clip(points, 0, 1)
    assert contains(region, clipped, images).all() == inside


def test_what_is_no_number_becomes_the_image():
  images = np.float32([[0.5, 0.5]])
  points = moved_inside(Linf(0.1), np.float32([[np.nan, 0.55]]), images)
  np.testing.assert_array_equal(points, np.float32([[0.5, 0.55]]))
