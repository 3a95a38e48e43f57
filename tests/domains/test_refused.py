"""What stands for no set proves nothing: reversed bounds, negative radii."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import attacks, domains, goals, losses, transformers
from diffai_jax.domains import HybridZonotope

CENTER = np.float32([[0.5, 0.9]])
MAKERS = {
    "box": domains.box,
    "correlated_box": domains.correlated_box,
    "from_bounds": lambda c, r: domains.from_bounds(c - r, c + r),
    "ball": lambda c, r: domains.from_bounds(*goals.ball(c, r)),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("radius", [
    -0.2, np.float32(-0.2), np.array([[0.1, -0.2]]), jnp.array([[0.1, -0.2]])
])
def test_known_ones_raise(maker, radius):
  with pytest.raises(ValueError, match="negative radius|radius of a ball|above"):
    MAKERS[maker](CENTER, radius)


@pytest.mark.parametrize("maker", MAKERS)
def test_traced_ones_prove_nothing(maker):
  """Each of these classes 1 the larger, but for the sign of the radius."""

  @jax.jit
  def proof(center, radius):
    element = MAKERS[maker](center, radius)
    element = transformers.dense(element, jnp.eye(2), jnp.zeros(2))
    margin = losses.margins(transformers.relu(element), jnp.array([1]))
    return losses.proved(margin, jnp.array([1]))[0], margin[0, 0]

  assert bool(proof(CENTER, 0.05)[0])
  proved, margin = proof(CENTER, -0.2)
  assert not bool(proved) and np.isnan(margin)
  proved, margin = proof(CENTER, jnp.nan)
  assert not bool(proved) and np.isnan(margin)


TRANSFORMERS = {
    "none": lambda x: x,
    "dense": lambda x: transformers.dense(x, jnp.eye(2), jnp.zeros(2)),
    "add": lambda x: transformers.add(x, x),
    "concat": lambda x: transformers.concat([x, x]),
    "relu": transformers.relu,
    "tanh": transformers.tanh,
    "correlate_all": lambda x: transformers.correlate_all(x, "new"),
    "correlate_max": lambda x: transformers.correlate_max(x, 1, "new"),
    "decorrelate_all": transformers.decorrelate_all,
    "decorrelate_min": lambda x: transformers.decorrelate_min(
        transformers.concat([x, domains.correlated_box(CENTER, 0.1)]), 1, "new"
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_elements_built_by_hand_with_a_negative_radius_prove_nothing(name):

  @jax.jit
  def proof(element):
    result = TRANSFORMERS[name](element)
    margin = losses.margins(result, np.array([1]))
    return domains.upper(result), losses.proved(margin, np.array([1]))

  radius = np.full((1, 2), -0.1, np.float32)
  upper, proved = proof(HybridZonotope(CENTER, radius))
  assert np.any(np.isnan(upper))
  assert not bool(np.asarray(proved)[0])


def test_a_ball_is_within_the_range_that_is_given():
  images = CENTER * 4 - 3
  with pytest.raises(ValueError, match="-1 is outside of the data's range"):
    goals.ball(images, 0.1)
  low, high = goals.ball(images, 0.7, (-1.0, 1.0))
  np.testing.assert_allclose(low, [[-1.0, -0.1]], atol=1e-6)
  np.testing.assert_allclose(high, [[-0.3, 1.0]], atol=1e-6)
  low, high = goals.ball(images, 0.7, None)
  np.testing.assert_allclose(low, [[-1.7, -0.1]], atol=1e-6)
  assert np.isnan(jax.jit(goals.ball)(images, 0.1)[0][0, 0])
  assert not np.isnan(jax.jit(goals.ball)(images, 0.1)[0][0, 1])
  # Without a radius it is the image; an infinite one is the whole range.
  for end in goals.ball(CENTER, 0.0):
    np.testing.assert_array_equal(end, CENTER)
  np.testing.assert_array_equal(goals.ball(CENTER, np.inf)[1], 1)


def test_attacks_stay_in_the_box_whatever_the_range_of_the_data():
  low, high = jnp.array([[-3.0, 2.0]]), jnp.array([[-2.0, 3.0]])
  labels = jnp.array([0])
  forward = lambda x: x @ jnp.array([[1.0, 0.0], [0.0, 1.0]])
  options = {"steps": 3, "step_size": 0.5}
  found = attacks.pgd(forward, low, high, labels, **options)
  assert np.all(low <= found) and np.all(found <= high)
  with pytest.raises(ValueError, match="outside of the data's range, 0 to 1"):
    attacks.pgd(forward, low, high, labels, data_range=(0.0, 1.0), **options)
  traced = jax.jit(lambda low, high: attacks.pgd(
      forward, low, high, labels, data_range=(0.0, 1.0), **options
  ))
  assert np.all(np.isnan(traced(low, high)))
  for attack in (attacks.pgd, lambda f, *box, **kwargs: attacks.mi_fgsm(
      f, low, *box, **kwargs
  )):
    with pytest.raises(ValueError, match="above its upper bound"):
      attack(forward, high, low, labels, **options)


def test_windows_that_hold_nothing_are_refused():
  image = jnp.zeros((1, 2, 2, 1))
  for pool in (transformers.max_pool, transformers.average_pool):
    with pytest.raises(ValueError, match="window is 0; it must be 1 or more"):
      pool(image, 0)
    with pytest.raises(ValueError, match="stride 0"):
      pool(image, 2, stride=0)
  with pytest.raises(ValueError, match="stride 0"):
    transformers.conv_transpose(
        image, jnp.zeros((1, 1, 1, 1)), jnp.zeros(1), stride=0
    )
