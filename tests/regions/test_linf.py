"""The L∞ ball: every shape of ε, against NumPy and against random points."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.domains import lower, upper
from diffai_jax.goals import ball
from diffai_jax.regions import Linf

_IMAGES = np.random.default_rng(0).uniform(size=(4, 3, 2)).astype(np.float32)
_KEYS = jax.random.split(jax.random.key(0), 4)
_RANDOM = np.random.default_rng(1)
# Each ε with the same for every variable of every image.
_EPSILONS = {
    "number": (0.2, 0.2),
    "one an example": (e := np.array([0, 0.1, 0.2, 0.9]), e[:, None, None]),
    "one an example, given whole": (e[:, None, None], e[:, None, None]),
    "one a variable": (v := _RANDOM.uniform(size=(3, 2)), v),
    "one a channel": (np.array([0.1, 0.4]), np.array([0.1, 0.4])),
    "each its own": (w := _RANDOM.uniform(size=(4, 3, 2)), w),
}


@pytest.mark.parametrize("epsilon, whole", _EPSILONS.values(), ids=_EPSILONS)
@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1, 0.95), None])
def test_bounds_are_those_of_numpy_rounded_outwards(epsilon, whole, data_range):
  images = np.minimum(_IMAGES, 0.95)
  low, high = Linf(epsilon, data_range).bounds(images)
  exact_low, exact_high = (
      images.astype(float) + sign * np.broadcast_to(whole, images.shape)
      for sign in (-1, 1)
  )
  if data_range is not None:
    exact_low, exact_high = (
        np.clip(end, *data_range) for end in (exact_low, exact_high)
    )
  assert np.all(low <= exact_low) and np.all(exact_high <= high)
  np.testing.assert_allclose(low, exact_low, atol=2e-6)
  np.testing.assert_allclose(high, exact_high, atol=2e-6)
  traced = jax.jit(lambda region, x: region.bounds(x))(
      Linf(jnp.asarray(epsilon, jnp.float32), data_range), images
  )
  np.testing.assert_allclose(traced[0], low, atol=1e-6)
  np.testing.assert_allclose(traced[1], high, atol=1e-6)


def test_ends_of_the_range_that_are_no_floats_are_inside():
  """0.1 and 0.7 lie between two numbers of float32."""
  low, high = Linf(5.0, (0.1, 0.7)).bounds(np.full((1, 1), 0.5, np.float32))
  assert Fraction(float(low[0, 0])) <= Fraction(0.1)
  assert Fraction(0.7) <= Fraction(float(high[0, 0]))


def test_another_epsilon_traces_nothing():
  traced = []

  @jax.jit
  def run(region, images):
    traced.append(region)
    return region.bounds(images)

  for epsilon in (0.1, 0.2):
    low, _ = run(Linf(epsilon), _IMAGES)
    np.testing.assert_allclose(
        low, np.maximum(_IMAGES - epsilon, 0), atol=1e-6
    )
  run(Linf(0.1, None), _IMAGES)  # Another range is another program.
  assert len(traced) == 2


def test_goals_use_the_same_ball():
  for ours, theirs in zip(Linf(0.3).bounds(_IMAGES), ball(_IMAGES, 0.3)):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("epsilon, message", [
    (-0.1, "-0.1 is no radius"),
    (np.nan, "nan is no radius"),
    (np.zeros(5), r"epsilon is \[5\], but images are \[4, 3, 2\]; expected a"),
    (np.zeros((5, 1, 1)), r"epsilon is \[5, 1, 1\]"),
    (np.zeros((2, 4, 3, 2)), r"epsilon is \[2, 4, 3, 2\]"),
])
def test_what_is_no_epsilon(epsilon, message):
  with pytest.raises(ValueError, match=message):
    Linf(epsilon).bounds(_IMAGES)


def test_an_epsilon_of_two_meanings_is_refused():
  images = np.zeros((2, 2), np.float32)
  epsilon = np.array([0.1, 0.3], np.float32)
  with pytest.raises(ValueError, match=r"give it as \[2, 1\] or \[1, 2\]"):
    Linf(epsilon).bounds(images)
  _, by_example = Linf(epsilon[:, None]).bounds(images)
  _, by_variable = Linf(epsilon[None]).bounds(images)
  np.testing.assert_allclose(by_example, [[0.1, 0.1], [0.3, 0.3]], atol=1e-6)
  np.testing.assert_allclose(by_variable, [[0.1, 0.3], [0.1, 0.3]], atol=1e-6)
  one = np.full(1, 0.1, np.float32)  # Both mean the same.
  assert Linf(one).bounds(np.zeros((1, 1), np.float32))[1].shape == (1, 1)


@pytest.mark.parametrize("epsilon", [-1.0, np.nan])
def test_traced_nonsense_is_nan(epsilon):
  run = jax.jit(lambda region, images: region.bounds(images))
  epsilon = np.array([0.1, epsilon, 0.1, 0.1], np.float32)
  for end in run(Linf(epsilon), _IMAGES):
    assert np.isnan(end[1]).all() and not np.isnan(end[0]).any()


@pytest.mark.parametrize("data_range", [(1, 0), (0.5, 0.5), (np.nan, 1)])
def test_what_is_no_range(data_range):
  with pytest.raises(ValueError, match="data_range is"):
    Linf(0.1, data_range).bounds(_IMAGES)


@pytest.mark.parametrize("epsilon", [e for e, _ in _EPSILONS.values()],
                         ids=_EPSILONS)
def test_points_of_the_region(epsilon):
  """Drawn ones and nearest ones are inside; the box is around all of them."""
  region = Linf(epsilon)
  far = _IMAGES + _RANDOM.normal(size=_IMAGES.shape).astype(np.float32)

  @jax.jit
  def run(far):
    """Bounds, the element's, points drawn and nearest, and 40 more drawn."""
    element = region.element(_IMAGES)
    draw = lambda seed: region.sample(
        jax.random.split(jax.random.key(seed), 4), _IMAGES
    )
    return (
        *region.bounds(_IMAGES), lower(element), upper(element),
        region.sample(_KEYS, _IMAGES), region.project(far, _IMAGES),
        jax.vmap(draw)(jnp.arange(40)),
    )

  low, high, least, most, drawn, near, many = map(np.asarray, run(far))
  for points in (drawn, near):
    assert np.all(low <= points) and np.all(points <= high)
  inside = (low <= far) & (far <= high)
  np.testing.assert_array_equal(near[inside], far[inside])
  assert np.all(least <= low) and np.all(high <= most)
  # They fill the region: half of a ball that was drawn is seldom empty.
  seen = (many.max(0) - many.min(0)) / np.maximum(high - low, 1e-9)
  assert np.all(seen[high > low] > 0.7)


def test_the_steepest_step_is_the_best_of_the_ball():
  gradient = _RANDOM.normal(size=_IMAGES.shape).astype(np.float32)
  epsilon = np.array([0, 0.1, 0.2, 0.9], np.float32)
  step = Linf(epsilon).steepest(gradient)
  assert np.all(np.abs(step) <= epsilon[:, None, None])
  np.testing.assert_allclose(
      np.sum(step * gradient, (1, 2)),
      epsilon * np.abs(gradient).sum((1, 2)), rtol=1e-5,
  )


@pytest.mark.parametrize("epsilon", [e for e, _ in _EPSILONS.values()],
                         ids=_EPSILONS)
@pytest.mark.parametrize("data_range", [(0.0, 1.0), None])
def test_linear_max_is_the_maximum_over_the_corners(epsilon, data_range):
  """In exact arithmetic, and not much above it."""
  region = Linf(epsilon, data_range)
  coefficients = _RANDOM.normal(size=(4, 5, 3, 2)).astype(np.float32)
  found = region.linear_max(coefficients, _IMAGES)
  assert found.shape == (4, 5)
  low, high = (np.asarray(b, float)[:, None] for b in region.bounds(_IMAGES))
  wide = coefficients.astype(float)
  exact = np.maximum(wide * low, wide * high).sum((2, 3))
  assert np.all(found >= exact)
  np.testing.assert_allclose(found, exact, atol=1e-4)


def test_linear_max_of_infinite_bounds():
  """What does not count may be infinite; what overflows proves nothing."""
  region = Linf(np.inf, None)
  found = region.linear_max(np.zeros((4, 1, 3, 2), np.float32), _IMAGES)
  assert np.all(found >= 0) and np.all(found < 1e-30)
  found = region.linear_max(np.ones((4, 1, 3, 2), np.float32), _IMAGES)
  assert np.isnan(found).all()
