"""Dropout on points and elements alike."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
from diffai_jax import nn as layers
from diffai_jax.domains import Product
from diffai_jax.nn.dropout import training_state
from diffai_jax.schedules import Lin
from diffai_jax.types import Mode, UsageError

KEYS = jax.random.split(jax.random.key(0), 64)
ONES = jnp.ones((64, 50))


class Net(nn.Module):
  """One Dropout, or two after each other."""

  rate: object
  twice: bool = False

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    x = layers.Dropout(self.rate)(x, mode)
    return layers.Dropout(self.rate)(x, mode) if self.twice else x


def run(rate, x=ONES, epoch=0.0, keys=KEYS, mode=Mode.TRAIN, twice=False):
  state = training_state(jnp.asarray(epoch), keys)
  return Net(rate, twice).apply(state, x, mode)


@pytest.mark.parametrize("epoch, rate", [(0.0, 0.0), (50.0, 0.3), (200.0, 0.6)])
def test_a_scheduled_share_is_dropped_and_the_rest_scaled_up(epoch, rate):
  found = np.asarray(run(Lin(0, 0.6, 100), epoch=epoch))
  kept = found != 0
  assert np.mean(kept) == pytest.approx(1 - rate, abs=0.03)
  np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("mode", [Mode.CONCRETE, Mode.CERTIFY])
def test_it_acts_in_training_alone(mode):
  np.testing.assert_array_equal(run(0.5, mode=mode), ONES)
  # Nor without a training state, as in an initialisation.
  np.testing.assert_array_equal(Net(0.5).apply({}, ONES, Mode.TRAIN), ONES)


def test_an_examples_mask_is_its_keys():
  """In any batch, and different for each example and each layer."""
  whole = np.asarray(run(0.5)) != 0
  part = np.asarray(run(0.5, ONES[:7], keys=KEYS[:7])) != 0
  np.testing.assert_array_equal(part, whole[:7])
  assert not np.array_equal(whole[0], whole[1])
  both = np.asarray(run(0.5, twice=True)) != 0
  assert np.mean(both) == pytest.approx(0.25, abs=0.03)


def test_points_and_elements_share_the_mask(float64):
  """x ↦ m·x is one linear map: points stay inside at the same noise values."""
  rng = np.random.default_rng(0)
  center = jnp.asarray(rng.normal(size=(64, 50)))
  radius = jnp.asarray(np.abs(rng.normal(size=(64, 50))))
  element = domains.correlated_box(center, radius)
  noise = rng.uniform(-1, 1, (64, 50))
  point, image, box = run(0.4, Product((
      center + radius * noise, element, domains.box(center, radius)
  ))).parts
  (block,) = image.correlated.values()
  at_noise = image.center + block.coefficients * noise
  assert np.all(np.abs(point - at_noise) <= image.uncorrelated)
  np.testing.assert_allclose(point, at_noise, atol=1e-12)
  assert np.all(np.asarray(point == 0) == (np.asarray(block.coefficients) == 0))
  assert np.all(np.abs(point - box.center) <= np.asarray(box.uncorrelated))


@pytest.mark.parametrize("rate", [-0.1, 1, Lin(0, 1, 10)], ids=str)
def test_impossible_rates_are_refused(rate):
  with pytest.raises(UsageError, match="dropout rate is .* at least 0 and belo"):
    run(rate)
