"""Initial weights by the names that configs give."""

import jax
import numpy as np
import pytest

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
  if name == "pytorch":
    assert np.abs(weights).max() <= 1 / np.sqrt(512)


def test_a_network_takes_its_initializer_by_name():
  shapes = {}
  for name in INITIALIZERS:
    network = create("FFNN", 10, (0.1,), (0.3,), initializer=name)
    params = network.init(jax.random.key(0), np.zeros((1, 28, 28, 1)))
    shapes[name] = np.std(params["params"]["Linear_0"]["kernel"])
  assert shapes["interval"] < shapes["pytorch"] < shapes["he"]
  with pytest.raises(UsageError, match="initializer 'hee'; did you mean 'he'"):
    create("FFNN", 10, initializer="hee")
