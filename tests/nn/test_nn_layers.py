"""Layers: what they compute, what Mode changes, how weights begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, nn
from diffai_jax.domains import Product
from diffai_jax.nn import initializers
from diffai_jax.types import Mode


def test_normalize_is_the_formula_a_channel():
  x = np.random.default_rng(0).uniform(size=(2, 3, 3, 2)).astype(np.float32)
  layer = nn.Normalize((0.1, 0.2), (0.5, 2.0))
  found = layer.apply({}, jnp.asarray(x))
  expected = (x - np.array([0.1, 0.2])) / np.array([0.5, 2.0])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert found.dtype == jnp.float32


def test_linear_and_conv_apply_their_own_weights():
  key = jax.random.key(0)
  x = jax.random.normal(key, (2, 5))
  layer = nn.Linear(3)
  params = layer.init(key, x)["params"]
  assert params["kernel"].shape == (5, 3)
  np.testing.assert_array_equal(params["bias"], np.zeros(3))
  np.testing.assert_allclose(
      layer.apply({"params": params}, x), np.asarray(x) @ params["kernel"],
      rtol=1e-5, atol=1e-6,
  )
  image = jax.random.normal(key, (2, 6, 6, 1))
  layer = nn.Conv2D(4, kernel_size=3, stride=2, padding=1)
  variables = layer.init(key, image)
  assert variables["params"]["kernel"].shape == (3, 3, 1, 4)
  assert layer.apply(variables, image).shape == (2, 3, 3, 4)


@pytest.mark.parametrize("only_train, mode, acts", [
    (False, Mode.CONCRETE, False),
    (False, Mode.TRAIN, True),
    (False, Mode.CERTIFY, True),
    (True, Mode.CONCRETE, False),
    (True, Mode.TRAIN, True),
    (True, Mode.CERTIFY, False),
])
def test_mode_says_when_an_abstract_layer_acts(only_train, mode, acts):
  layer = nn.CorrelateAll(only_train=only_train)
  x = jnp.ones((1, 2))
  result = layer.apply({}, Product((x, domains.box(x, 1.0))), mode)
  assert result[0] is x  # Never the concrete run.
  assert (result[1].uncorrelated is None) == acts
  assert (len(result[1].correlated) == 1) == acts


def test_interval_initializer_has_the_papers_spread():
  """std = sqrt(2π)/fan_in keeps the expected radius through a layer."""
  weights = np.asarray(initializers.interval(jax.random.key(0), (4, 4, 8, 512)))
  np.testing.assert_allclose(weights.std(), np.sqrt(2 * np.pi) / 128, rtol=0.02)
  # fan_in · E|w| = 2, and a ReLU halves what straddles 0.
  np.testing.assert_allclose(128 * np.abs(weights).mean(), 2.0, rtol=0.02)
