"""Regularisers of fast interval training against Shi et al. 2021 in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, regularizers
from diffai_jax.domains import Product
from diffai_jax.networks import create
from diffai_jax.nn.observation import COLLECTION, observed
from diffai_jax.types import Mode

pytestmark = pytest.mark.usefixtures("float64")


def draw(rng, shape, spread=1.0, shift=0.0):
  center = rng.normal(size=shape) + shift
  radius = spread * np.abs(rng.normal(size=shape)) * (rng.random(shape) < 0.9)
  return domains.box(jnp.asarray(center), jnp.asarray(radius))


def bounds(element):
  center, radius = np.asarray(element.center), np.asarray(element.uncorrelated)
  return center - radius, center + radius


def numpy_tightness(first, inputs, tau):
  widths = [np.mean((u - l) / 2) for l, u in map(bounds, [first, *inputs])]
  return np.mean([max(0, tau - widths[0] / w) for w in widths[1:]]) / tau


def numpy_balance(inputs, tau):
  total = 0.0
  for l, u in map(bounds, inputs):
    center = (l + u) / 2
    active, inactive = l > 0, u < 0
    if not active.any() or not inactive.any():
      ratios = [1, 1]  # There is none; nothing is added.
    else:
      distance = (center - center.mean()) ** 2
      alpha = center[active].sum() / -center[inactive].sum()
      beta = distance[active].sum() / distance[inactive].sum()
      ratios = [min(alpha, 1 / alpha), min(beta, 1 / beta)]
    total += sum(max(0, tau - ratio) for ratio in ratios)
  return total / len(inputs) / tau


@pytest.mark.parametrize("tau", [0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_formulas(seed, tau):
  rng = np.random.default_rng(seed)
  first = draw(rng, (4, 6, 6, 2), 0.1)
  inputs = [draw(rng, (4, 30), *s)
            for s in ((0.05, 0.5), (0.3, -0.8), (2.0, 0.3), (0.01, 0))]
  np.testing.assert_allclose(
      regularizers.tightness(first, inputs, tau),
      numpy_tightness(first, inputs, tau), rtol=1e-9,
  )
  expected = numpy_balance(inputs, tau)
  assert expected > 0
  np.testing.assert_allclose(
      regularizers.relu_balance(inputs, tau), expected, rtol=1e-9
  )


@pytest.mark.parametrize("center", [2.0, -2.0, 0.0])
def test_one_sided_layers_cost_nothing(center):
  """Without active or without inactive neurons there is no ratio."""
  element = domains.box(
      jnp.full((2, 5), center) + jnp.arange(5) / 100, jnp.full((2, 5), 0.5)
  )
  assert float(regularizers.relu_balance([element])) == 0


def test_nothing_to_look_at():
  first = domains.box(jnp.zeros((1, 2)), jnp.ones((1, 2)))
  assert float(regularizers.tightness(first, [])) == 0
  assert float(regularizers.relu_balance([])) == 0


def test_gradients_are_finite_also_without_width():
  def total(radius):
    first = domains.box(jnp.zeros((1, 3)), radius)
    inputs = [domains.box(jnp.array([[1.0, -1, 0]]), radius)]
    return regularizers.tightness(first, inputs) + regularizers.relu_balance(
        inputs
    )

  for radius in (0.0, 1e-30, 0.5):
    slope = jax.grad(total)(jnp.full((1, 3), radius))
    assert np.all(np.isfinite(slope))


def test_a_network_shows_its_bounds_before_each_relu():
  """For each element of a Product, and only if it is asked."""
  network = create("ConvSmall", 10, (0.1307,), (0.3081,))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.uniform(size=(2, 28, 28, 1)))
  box = domains.box(images, jnp.full(images.shape, 0.1))
  small = domains.box(images, jnp.full(images.shape, 0.01))
  params = network.init(jax.random.key(0), images)
  value = Product((images, box, small))
  _, shown = network.apply(params, value, Mode.TRAIN, mutable=[COLLECTION])
  (first,), inputs = observed(shown, "input"), observed(shown, "before ReLU")
  assert len(first) == 2 and [len(call) for call in inputs] == [2, 2, 2]
  assert [call[0].center.shape[1:] for call in inputs] == [
      (13, 13, 16), (5, 5, 32), (100,)
  ]
  np.testing.assert_allclose(first[0].uncorrelated, 0.1 / 0.3081, rtol=1e-6)
  np.testing.assert_allclose(first[1].uncorrelated, 0.01 / 0.3081, rtol=1e-6)
  kernel = params["params"]["Conv2D_0"]["kernel"]
  expected = 0.1 / 0.3081 * np.abs(kernel).sum(axis=(0, 1, 2))
  np.testing.assert_allclose(
      inputs[0][0].uncorrelated, np.broadcast_to(expected, (2, 13, 13, 16)),
      rtol=1e-5,
  )
  _, nothing = network.apply(params, value, Mode.TRAIN, mutable=["deep_loss"])
  assert COLLECTION not in nothing and COLLECTION not in params


def test_gradients_are_those_of_the_formulas():
  """Against finite differences, the mean's own gradient included."""
  rng = np.random.default_rng(3)
  center = rng.normal(size=(3, 12)) - 0.6
  radius = np.full((3, 12), 0.2)

  def balance(center):
    element = domains.box(jnp.asarray(center), jnp.asarray(radius))
    return regularizers.relu_balance([element], 0.95)

  assert float(balance(center)) > 0.1
  slope = np.asarray(jax.grad(balance)(jnp.asarray(center)))
  for index in [(0, 0), (1, 5), (2, 11), (0, 7)]:
    step = np.zeros_like(center)
    step[index] = 1e-6
    ends = [float(balance(center + s * step)) for s in (1, -1)]
    np.testing.assert_allclose(slope[index], (ends[0] - ends[1]) / 2e-6,
                               rtol=1e-5, atol=1e-8)
