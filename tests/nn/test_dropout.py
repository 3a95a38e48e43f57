"""Dropout on points and elements alike."""

import functools

import drawn_weights
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
from diffai_jax import nn as layers
from diffai_jax.domains import HybridZonotope, Product
from diffai_jax.nn.dropout import training_state
from diffai_jax.schedules import Lin
from diffai_jax.types import Mode, UsageError

KEYS = jax.random.split(jax.random.key(0), 64)
ONES = np.ones((64, 50), np.float32)


class Net(nn.Module):
  """One Dropout, or two after each other."""

  rate: object
  twice: bool = False

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    x = layers.Dropout(self.rate)(x, mode)
    return layers.Dropout(self.rate)(x, mode) if self.twice else x


@functools.partial(jax.jit, static_argnames=("rate", "mode", "twice"))
def run(rate, x=ONES, epoch=0.0, keys=KEYS, mode=Mode.TRAIN, twice=False):
  state = training_state(jnp.asarray(epoch), keys)
  return Net(rate, twice).apply(state, x, mode)


@pytest.mark.parametrize("epoch, rate", [(0.0, 0.0), (50.0, 0.3), (200.0, 0.6)])
def test_a_scheduled_share_is_dropped_and_the_rest_scaled_up(epoch, rate):
  found = np.asarray(run(Lin(0, 0.6, 100), epoch=epoch))
  kept = found != 0
  assert np.mean(kept) == pytest.approx(1 - rate, abs=0.03)
  np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate", [0, 0.0, Lin(0, 0.5, 10, 5)], ids=str)
def test_a_rate_of_0_changes_nothing(rate):
  values = np.random.default_rng(2).normal(size=ONES.shape).astype(np.float32)
  np.testing.assert_array_equal(run(rate, values, epoch=3.0), values)


def test_the_expectation_stays_what_it_was():
  """Over 4,000 masks, each variable and each one's share of zeros."""
  keys = jax.random.split(jax.random.key(5), 4000)
  values = np.linspace(-3, 3, 20, dtype=np.float32)
  found = np.asarray(run(0.4, np.tile(values, (4000, 1)), keys=keys))
  # The mean of 4,000 draws is off by 0.0129·|x|, one standard deviation.
  error = np.abs(found.mean(axis=0) - values)
  assert np.all(error <= 5 * 0.0129 * np.abs(values))
  np.testing.assert_allclose(np.mean(found == 0, axis=0), 0.4, atol=0.04)


def test_nothing_recompiles_as_the_epoch_moves():
  traces = []

  @jax.jit
  def share(epoch):
    traces.append(epoch)
    return jnp.mean(run(Lin(0, 0.8, 10), epoch=epoch) == 0)

  shares = [float(share(jnp.asarray(t))) for t in (0.0, 2.5, 5.0, 10.0)]
  np.testing.assert_allclose(shares, [0, 0.2, 0.4, 0.8], atol=0.03)
  assert len(traces) == 1


@pytest.mark.parametrize("mode", [Mode.CONCRETE, Mode.CERTIFY])
def test_it_acts_in_training_alone(mode):
  np.testing.assert_array_equal(run(0.5, mode=mode), ONES)
  # Nor without a training state, as in an initialisation.
  np.testing.assert_array_equal(Net(0.5).apply({}, ONES, Mode.TRAIN), ONES)


def test_an_examples_mask_is_its_keys():
  """In any batch and at any place, and different for each example."""
  whole = np.asarray(run(0.5)) != 0
  part = np.asarray(run(0.5, ONES[:7], keys=KEYS[:7])) != 0
  np.testing.assert_array_equal(part, whole[:7])
  back = np.asarray(run(0.5, keys=KEYS[::-1])) != 0
  np.testing.assert_array_equal(back, whole[::-1])
  assert len({tuple(row) for row in whole}) == len(whole)
  # Images have a mask for each pixel, not for each channel or row.
  image = np.asarray(run(0.5, ONES.reshape(64, 5, 5, 2))) != 0
  np.testing.assert_array_equal(image.reshape(64, 50), whole)


def test_two_layers_draw_different_masks():
  """A quarter survives both; of two that are the same, a half would."""
  both = np.asarray(run(0.5, twice=True)) != 0
  assert np.mean(both) == pytest.approx(0.25, abs=0.03)
  once = np.asarray(run(0.5)) != 0
  assert not np.any(both & ~once)  # The first layer's mask is the same.
  assert np.mean(both[once]) == pytest.approx(0.5, abs=0.05)


def test_points_and_elements_share_the_mask(float64):
  """x ↦ m·x is one linear map: points stay inside at the same noise values."""
  rng = np.random.default_rng(0)
  center = rng.normal(size=(64, 50))
  radius = np.abs(rng.normal(size=(64, 50)))
  element = domains.correlated_box(center, radius)
  noise = rng.uniform(-1, 1, (64, 50))
  point, image, box = jax.tree.map(np.asarray, run(0.4, Product((
      center + radius * noise, element, domains.box(center, radius)
  )))).parts
  (block,) = image.correlated.values()
  at_noise = image.center + block.coefficients * noise
  assert np.all(np.abs(point - at_noise) <= image.uncorrelated)
  np.testing.assert_allclose(point, at_noise, atol=1e-12)
  assert np.all((point == 0) == (block.coefficients == 0))
  assert np.all(np.abs(point - box.center) <= box.uncorrelated)
  # What is kept keeps its width, scaled up; what is dropped has none left.
  np.testing.assert_allclose(
      box.uncorrelated, np.where(point == 0, 0, radius / 0.6), atol=1e-12
  )


def test_dense_generators_have_the_mask_of_points(float64):
  """Each noise symbol's coefficient is multiplied by the variable's factor."""
  rng = np.random.default_rng(3)
  center, radius = rng.normal(size=(2, 64, 50))
  generators = rng.normal(size=(64, 4, 50))
  element = HybridZonotope(
      center, np.abs(radius), {"a": domains.Dense(generators)}
  )
  mask = np.asarray(run(0.4))
  image = run(0.4, element)
  np.testing.assert_allclose(image.center, mask * center, atol=1e-12)
  np.testing.assert_allclose(
      image.correlated["a"].coefficients, mask[:, None] * generators, atol=1e-12
  )
  np.testing.assert_allclose(
      image.uncorrelated, mask * np.abs(radius), atol=1e-12
  )


class Deep(nn.Module):
  """Dropout between layers that bound: two of them, with a ReLU before each."""

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    for width in (12, 9):
      x = layers.ReLU()(layers.Linear(width)(x, mode), mode)
      x = layers.Dropout(0.3)(x, mode)
    return layers.Linear(4)(x, mode)


@pytest.mark.parametrize("relu", ["box", "switch", "smooth", "deepz"])
def test_outputs_of_points_stay_within_the_elements_bounds(relu):
  """For points of the input box that travel with the element, and alone."""
  rng = np.random.default_rng(6)
  center = rng.normal(size=(64, 7)).astype(np.float32)
  radius = (0.3 * np.abs(rng.normal(size=(64, 7)))).astype(np.float32)
  params = drawn_weights.variables(Deep(), (7,))
  element = HybridZonotope(
      center, None, {"input": domains.Diagonal(radius)}, relu, relu == "deepz"
  )
  shares = np.concatenate([
      rng.uniform(-1, 1, (5, 64, 7)), np.sign(rng.normal(size=(5, 64, 7)))
  ]).astype(np.float32)
  points = center + radius * shares
  variables = params | training_state(0.0, KEYS)

  @jax.jit
  def run(points, element):
    """Of points beside the element; its bounds; of points alone."""
    *found, image = Deep().apply(
        variables, Product((*points, element)), Mode.TRAIN
    ).parts
    alone = [Deep().apply(variables, point, Mode.TRAIN) for point in points]
    without = Deep().apply(params, points[0], Mode.TRAIN)
    return found, domains.lower(image), domains.upper(image), alone, without

  found, low, high, outputs, without = run(list(points), element)
  for output, alone in zip(found, outputs, strict=True):
    np.testing.assert_allclose(alone, output, rtol=1e-4, atol=1e-5)
    assert np.all(low <= output) and np.all(output <= high)
    assert np.all(low <= alone) and np.all(alone <= high)
  assert np.max(np.abs(without - found[0])) > 0.1  # It did act.


@pytest.mark.parametrize("rate", [-0.1, 1, Lin(0, 1, 10)], ids=str)
@pytest.mark.parametrize("mode", Mode)
def test_impossible_rates_are_refused(rate, mode):
  with pytest.raises(UsageError, match="at least 0 and below 1") as caught:
    run(rate, mode=mode)
  assert f"the dropout rate is {rate};" in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_describe():
  layer = layers.Dropout(Lin(0, 0.5, 60))
  assert layer.describe((3,)) == "Dropout p=Lin(0, 0.5, 60)"
