"""Regions that are cut: the LP's bounds, or a little more, and never less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from diffai_jax.backward.windows import Frame, Windows
from diffai_jax.regions import L2, Bounds, Cut, Linf, largest_cut, of_examples


_linear_max = jax.jit(
    lambda region, rows, images: region.linear_max(rows, images)
)
_bounds = jax.jit(lambda region, images: region.bounds(images))


def _case(seed, region, leaves, shape=(5, 6)):
  """A cut that leaves a part of how far λ goes, images, rows, λ, c."""
  rng = np.random.default_rng(seed)
  images = rng.uniform(0.3, 0.7, (2,) + shape).astype(np.float32)
  rows = rng.normal(size=(2, 4) + shape).astype(np.float32)
  slopes = rng.normal(size=(2,) + shape).astype(np.float32)
  most, least = (
      sign * np.asarray(_linear_max(region, sign * slopes[:, None], images))
      for sign in (1, -1)
  )
  constants = np.float32(-(most - leaves * (most - least)))[:, 0]
  return Cut(region, slopes, constants), images, rows


@pytest.mark.parametrize("leaves", (0.01, 0.2, 0.9))
def test_boxes_have_the_bounds_of_the_lp(leaves):
  for seed in range(3):
    cut, images, rows = _case(seed, Linf(0.1), leaves)
    found = np.asarray(_linear_max(cut, rows, images), float)
    whole = np.asarray(_linear_max(Linf(0.1), rows, images), float)
    low, high = (np.asarray(b, float) for b in _bounds(cut, images))
    for n in range(2):
      ends = list(zip(low[n].ravel(), high[n].ravel()))
      for s in range(4):
        exact = -linprog(
            -rows[n, s].ravel(), A_ub=-cut.rows[n].reshape(1, -1),
            b_ub=cut.constants[n : n + 1], bounds=ends,
        ).fun
        gap = (found[n, s] - exact) / (whole[n, s] - exact + 1e-3)
        assert 0 <= gap < 0.05
    assert leaves > 0.5 or np.mean(found < whole - 0.1) > 0.7


@jax.jit
def _points(region, images, key, towards, shares):
  """Points of a region, moved towards where rows are large.

  Args:
    region, images: which one.
    key: of all draws.
    towards: rows of each step, [draws, B, ...] each.
    shares: how far each draw is moved, [draws].

  Returns:
    [draws, B, ...].
  """
  def point(draw, share, *steps):
    keys = jax.random.split(jax.random.fold_in(key, draw), len(images))
    points = region.sample(keys, images)
    for step in steps:
      points = region.project(points + share * region.steepest(step), images)
    return points

  return jax.vmap(point)(jnp.arange(len(shares)), shares, *towards)


@pytest.mark.parametrize("region", (Linf(0.1), L2(0.3)), ids=("box", "ball"))
def test_no_point_that_is_left_escapes(region):
  for seed in range(3):
    cut, images, rows = _case(seed, region, 0.4)
    found = np.asarray(_linear_max(cut, rows, images), float)
    draws = np.arange(400)
    towards = (
        np.broadcast_to(cut.rows, (400,) + cut.rows.shape),
        rows.swapaxes(0, 1)[draws % 4],
    )
    points = np.asarray(_points(
        region, images, jax.random.key(seed), towards,
        np.float32(draws % 20 / 10),
    ), float)
    left = np.sum(points * cut.rows, (2, 3)) + cut.constants >= 0
    values = np.sum(rows * points[:, :, None], (3, 4))
    best = np.where(left[:, :, None], values, -np.inf).max(axis=0)
    assert np.isfinite(best).all() and np.all(best <= found)
    # Some of them escape from a bound that cuts too much.
    assert np.any(best > found - 0.2 * np.abs(found))


def test_windows_and_what_is_outside_are_the_whole():
  region, shape = Linf(0.1), (5, 6, 2)
  cut, images, _ = _case(7, region, 0.03, shape)
  rng = np.random.default_rng(0)
  # Windows of 3 × 2 pixels, some of which begin outside of the image.
  frame = Frame(shape, (3, 2), (2, 2), (-1, 0), (3, 3))
  places = np.array([[0, 0], [1, 2], [2, 1]])
  inside = rng.normal(size=(3, 2, 3, 2, 2)).astype(np.float32)
  examples = np.array([0, 1, 1])

  @jax.jit
  def run(region, cut, images, inside):
    """The bounds of windows, of whole rows, and of these without the cut."""
    windows = Windows(inside, jnp.asarray(places), frame).cut()
    own, around = of_examples(cut, images, examples)
    whole = own.linear_max(windows.whole(), around)
    alone = region.linear_max(windows.whole(), around)
    under = lambda array: windows.under(jnp.asarray(array), examples)
    box = Bounds(*map(under, region.bounds(images)))
    slopes = under(cut.rows)
    rest = cut.outside(images, box.lower, box.upper, slopes, examples)
    return largest_cut(
        windows.inside, box.lower, box.upper, slopes, rest, box.linear_max
    ), whole, alone

  found, whole, alone = map(np.asarray, run(region, cut, images, inside))
  np.testing.assert_allclose(found, whole, atol=2e-3)
  assert np.all(whole <= alone) and np.mean(whole < alone - 0.01) > 0.5


def test_a_cut_that_says_nothing_cuts_nothing():
  images = np.full((1, 4), 0.5, np.float32)
  rows = np.float32([[[1, -2, 3, 0]]])
  whole = np.asarray(_linear_max(Linf(0.1), rows, images))
  for slopes, constant in (
      (np.zeros((1, 4)), 1.0), (np.zeros((1, 4)), 0.0),
      (np.full((1, 4), np.nan), 0.0), (np.ones((1, 4)), np.inf),
      (np.ones((1, 4)), np.nan),
  ):
    cut = Cut(Linf(0.1), np.float32(slopes), np.float32([constant]))
    np.testing.assert_array_equal(_linear_max(cut, rows, images), whole)


def test_rounding_is_allowed_for():
  """Products of 1 and 1 + 2^-23, which round down each time, in a point."""
  rng = np.random.default_rng(0)
  for count in (3, 300, 3000):
    values = np.float32(1 + 2.0**-23 * rng.integers(1, 9, (1, count)))
    rows = np.float32(1 + 2.0**-23 * rng.integers(1, 9, (1, 2, count)))
    exact = np.sum(np.longdouble(rows) * values, axis=2)
    # The point is on the half-space's edge, and beyond it.
    edge = np.nextafter(np.float32(-exact[:, 0]), np.float32(np.inf))
    region = Linf(0.0, None)
    for left in (region, Cut(region, rows[:, 0], edge)):
      found = np.asarray(_linear_max(left, rows, values))
      assert np.all(found >= exact)
      assert np.all(found <= exact * (1 + 1e-4))
    nothing = Cut(region, rows[:, 0], np.float32([-2.0 * count]))
    found = np.asarray(_linear_max(nothing, rows, values))
    assert np.all(found < exact)  # Anything holds of it.


def test_the_sum_of_rows_may_round():
  """In a point on the edge every γ gives the row's own value, but for rounding.

  The region's own bound is exact here, so nothing else allows for it.
  """
  rng = np.random.default_rng(0)
  point = jnp.full((1, 50), 0.5)
  slopes = jnp.asarray(rng.integers(1, 4096, (1, 50)), jnp.float32)
  rows = jnp.asarray(rng.normal(size=(1, 64, 50)), jnp.float32)

  def largest(moved):
    values = np.sum(np.asarray(moved, np.float64), axis=2) / 2
    return jnp.asarray(np.nextafter(np.float32(values), np.float32(np.inf)))

  found = np.asarray(
      largest_cut(rows, point, point, slopes, -slopes.sum(axis=1) / 2, largest)
  )
  exact = np.sum(np.asarray(rows, np.float64), axis=2) / 2
  assert np.all(found >= exact)
  assert np.all(found <= np.asarray(largest(rows)))
