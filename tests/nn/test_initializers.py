"""Initial weights by the names that configs give."""

import jax
import numpy as np
import pytest
from weights import layers

from diffai_jax.networks import create
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.types import UsageError

SHAPE = (4, 4, 32, 400)  # fan_in 512.


@pytest.mark.parametrize("name, std", [
    ("interval", np.sqrt(2 * np.pi) / 512),
    ("he", np.sqrt(2 / 512)),
    ("pytorch", 1 / np.sqrt(512) / np.sqrt(3)),
])
def test_standard_deviations(name, std):
  weights = np.asarray(INITIALIZERS[name](jax.random.key(0), SHAPE))
  assert weights.shape == SHAPE
  np.testing.assert_allclose(weights.std(), std, rtol=0.02)
  np.testing.assert_allclose(weights.mean(), 0, atol=std / 100)
  # Uniform up to √3 standard deviations; normal, cut off at 2 before it is
  # scaled; and normal without an end.
  reach = np.abs(weights).max() / std
  low, high = {
      "pytorch": (0.999 * np.sqrt(3), 1.0001 * np.sqrt(3)), "he": (2.2, 2.28),
      "interval": (4, 6),
  }[name]
  assert low < reach < high
  other = INITIALIZERS[name](jax.random.key(1), SHAPE)
  assert not np.any(weights == other)


@pytest.mark.parametrize("name, std", [
    ("interval", lambda fan_in: np.sqrt(2 * np.pi) / fan_in),
    ("he", lambda fan_in: np.sqrt(2 / fan_in)),
    ("pytorch", lambda fan_in: 1 / np.sqrt(3 * fan_in)),
])
@pytest.mark.parametrize("network", ["ConvSmall", "FFNN"])
def test_a_network_takes_its_initializer_by_name(network, name, std):
  """In each of its layers; biases are 0."""
  module = create(network, 10, (0.1,), (0.3,), initializer=name)
  params = jax.jit(module.init)(jax.random.key(0), np.zeros((1, 20, 20, 1)))
  found = layers(params["params"])
  assert len(found) == {"ConvSmall": 4, "FFNN": 6}[network]
  for layer in found:
    kernel = np.asarray(layer["kernel"])
    fan_in = np.prod(kernel.shape[:-1])
    np.testing.assert_allclose(
        kernel.std(), std(fan_in), rtol=4 / np.sqrt(2 * kernel.size)
    )
    assert not np.any(layer["bias"])


def test_interval_is_the_default():
  one, two = (
      jax.jit(create("FFNN", 3, **options).init)(
          jax.random.key(0), np.zeros((1, 4, 4, 1))
      )
      for options in ({}, {"initializer": "interval"})
  )
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_an_unknown_initializer_is_refused():
  with pytest.raises(UsageError, match="initializer 'hee'; did you mean 'he'"):
    create("FFNN", 10, initializer="hee")


