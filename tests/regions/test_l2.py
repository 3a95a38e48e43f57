"""The L2 ball: against exact distances, SciPy and random points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from diffai_jax.domains import lower, upper
from diffai_jax.regions import L2, Linf

_RANDOM = np.random.default_rng(0)
_IMAGES = _RANDOM.uniform(size=(4, 3, 2)).astype(np.float32)
_KEYS = jax.random.split(jax.random.key(0), 4)
_EPSILONS = {
    "number": 0.4, "zero": 0.0, "one an example": np.array([0, 0.1, 0.4, 2.0]),
    "tiny": 1e-6,
}
_RANGES = [(0.0, 1.0), (-3, 1.5), None]
_linear_max = jax.jit(
    lambda region, rows, images: region.linear_max(rows, images)
)


@jax.jit
def _seen(region, far):
  """Points drawn and nearest to some; the region's bounds and its element's."""
  element = region.element(_IMAGES)
  return (
      (region.sample(_KEYS, _IMAGES), region.project(far, _IMAGES)),
      region.bounds(_IMAGES), (lower(element), upper(element)),
  )


@jax.jit
def _draws(region):
  """40 points of each image's region, [40, 4, 3, 2]."""
  draw = lambda seed: region.sample(
      jax.random.split(jax.random.key(seed), 4), _IMAGES
  )
  return jax.vmap(draw)(jnp.arange(40))


def _radius(epsilon):
  return np.broadcast_to(epsilon, 4).astype(float)


def _distance(points):
  moved = np.asarray(points, float) - _IMAGES.astype(float)
  return np.sqrt(np.sum(moved**2, (-2, -1)))


@pytest.mark.parametrize("epsilon", _EPSILONS.values(), ids=_EPSILONS)
@pytest.mark.parametrize("data_range", _RANGES)
def test_points_of_the_region(epsilon, data_range):
  """Drawn, nearest: in the ball, exactly; and in the range."""
  region = L2(epsilon, data_range)
  far = _IMAGES + _RANDOM.normal(size=_IMAGES.shape).astype(np.float32)
  seen, (low, high), (least, most) = jax.tree.map(
      np.asarray, _seen(region, far)
  )
  for points in seen:
    assert np.all(_distance(points) <= _radius(epsilon))
    assert np.all(low <= points) and np.all(points <= high)
    assert np.all(least <= points) and np.all(points <= most)
    if data_range is not None:
      assert np.all(points >= data_range[0]) and np.all(points <= data_range[1])
  # They fill the ball: half of what is drawn is near to its border.
  if data_range is None:
    many = _distance(_draws(region))
    share = np.mean(many > 0.85 * _radius(epsilon), 0)
    assert np.all((share > 0.4) | (_radius(epsilon) < 1e-3))


@pytest.mark.parametrize("data_range", [(0.0, 1.0), None])
def test_the_nearest_point_is_that_of_an_optimiser(data_range):
  region = L2(0.4, data_range)
  far = (_IMAGES + _RANDOM.normal(size=_IMAGES.shape)).astype(np.float32)
  near = np.asarray(region.project(far, _IMAGES))
  assert np.all(_distance(near) <= 0.4)
  for image, point, found in zip(_IMAGES, far, near):
    shape, bounds = image.shape, None
    if data_range:
      bounds = [data_range] * image.size
    best = optimize.minimize(
        lambda x: np.sum((x - point.ravel())**2), image.ravel().astype(float),
        bounds=bounds, method="SLSQP", constraints={
            "type": "ineq",
            "fun": lambda x: 0.4**2 - np.sum((x - image.ravel())**2),
        }, options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(found, best.x.reshape(shape), atol=1e-4)


def test_points_inside_stay():
  region = L2(0.4)
  inside = np.asarray(region.sample(_KEYS, _IMAGES))
  inside = _IMAGES + np.float32(0.9) * (inside - _IMAGES)
  np.testing.assert_array_equal(region.project(inside, _IMAGES), inside)


def test_the_steepest_step_is_the_best_of_the_ball():
  gradient = _RANDOM.normal(size=_IMAGES.shape).astype(np.float32)
  gradient[3] = 0
  epsilon = _EPSILONS["one an example"]
  step = np.asarray(L2(epsilon).steepest(gradient))
  norm = np.sqrt(np.sum(gradient.astype(float)**2, (1, 2)))
  np.testing.assert_allclose(
      np.sum(step * gradient, (1, 2)), epsilon * norm, rtol=1e-5, atol=1e-6
  )
  np.testing.assert_array_equal(step[3], 0)


@pytest.mark.parametrize("epsilon", _EPSILONS.values(), ids=_EPSILONS)
@pytest.mark.parametrize("data_range", _RANGES)
def test_the_largest_of_a_linear_function(epsilon, data_range):
  """No point is above; where the range excludes nothing, some point is there."""
  region = L2(epsilon, data_range)
  rows = _RANDOM.normal(size=(4, 5, 3, 2)).astype(np.float32)
  rows[:, 1] *= 1e-30
  rows[:, 2] *= 1e30
  found = np.asarray(_linear_max(region, rows, _IMAGES), float)
  assert np.all(found <= np.asarray(
      _linear_max(Linf(epsilon, data_range), rows, _IMAGES), float))
  wide = rows.astype(float)
  points = np.asarray(_draws(region), float)
  assert np.all(found >= np.einsum("bsij,nbij->nbs", wide, points))
  at = np.einsum("bsij,bij->bs", wide, _IMAGES.astype(float))
  norm = np.sqrt(np.einsum("bsij,bsij->bs", wide, wide))
  attained = at + _radius(epsilon)[:, None] * norm
  scale = np.abs(at) + norm
  if data_range is None:
    assert np.all(found >= attained)
    assert np.all(found <= attained + 1e-5 * scale + 1e-30)
  # In one type or in another it is the same up to rounding.
  np.testing.assert_array_less(found - 1e-5 * scale - 1e-30, attained)


def test_float64(float64):
  """The bounds of float32 are around those of float64."""
  rows = _RANDOM.normal(size=(4, 5, 3, 2)).astype(np.float32)
  narrow = _linear_max(L2(np.float32(0.4)), rows, _IMAGES)
  wide = _linear_max(
      L2(float(np.float32(0.4))), rows.astype(float), _IMAGES.astype(float)
  )
  assert narrow.dtype == np.float32 and wide.dtype == np.float64
  assert np.all(narrow >= wide)
  np.testing.assert_allclose(narrow, wide, atol=5e-5)


def test_what_overflows_proves_nothing():
  rows = np.full((1, 1, 2), 3e38, np.float32)
  images = np.full((1, 2), 0.5, np.float32)
  assert not np.isfinite(L2(0.4).linear_max(rows, images))[0, 0]


@pytest.mark.parametrize("epsilon, message", [
    (-0.1, "-0.1 is no radius"), (np.nan, "nan is no radius"),
    (np.array([0.1, 0.4]), "has one radius in all directions"),
    (np.zeros(5), r"epsilon is \[5\], but images are"),
])
def test_what_is_no_epsilon(epsilon, message):
  for use in (
      lambda region: region.bounds(_IMAGES),
      lambda region: region.linear_max(np.ones((4, 1, 3, 2), "f"), _IMAGES),
      lambda region: region.project(_IMAGES, _IMAGES),
  ):
    with pytest.raises(ValueError, match=message):
      use(L2(epsilon))


def test_images_outside_of_the_range_are_refused():
  with pytest.raises(ValueError, match="is outside of the data's range"):
    L2(0.1).bounds(_IMAGES + 1)
  run = jax.jit(lambda x: L2(0.1).linear_max(jnp.ones((4, 1, 3, 2)), x))
  assert np.isnan(run(_IMAGES + 1)).all()


def test_another_epsilon_traces_nothing():
  traced = []

  @jax.jit
  def run(region, images):
    traced.append(region)
    return region.project(images + 1, images)

  for epsilon in (0.1, 0.2):
    assert np.all(_distance(run(L2(epsilon), _IMAGES)) <= epsilon)
  assert len(traced) == 1
