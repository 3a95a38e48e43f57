"""What is so small that float32 flushes it to 0 is covered all the same.

Inputs and weights here are normal numbers; results that are not are lost.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, HybridZonotope
from diffai_jax.transformers.relu import RULES


@pytest.mark.parametrize("symbols, size, weight", [
    (1000, 1e-20, 1e-19), (784, 1.5e-38, 0.5)
])
def test_products_of_many_symbols(symbols, size, weight):
  element = HybridZonotope(
      jnp.zeros((1, 10)), None, {"a": Dense(jnp.full((1, symbols, 10), size))}
  )
  image = transformers.dense(element, jnp.full((10, 1), weight), jnp.zeros(1))
  assert float(domains.upper(image)[0, 0]) >= 10 * symbols * size * weight
  scaled = transformers.scale_shift(element, weight, 0.0)
  assert float(domains.upper(scaled)[0, 0]) >= symbols * size * weight


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("correlated", [False, True])
def test_halves_in_relu(rule, correlated):
  radius = jnp.full((1, 1), 2e-38)
  blocks = {"a": Dense(radius[:, None])} if correlated else {}
  element = HybridZonotope(
      jnp.zeros((1, 1)), None if correlated else radius, blocks, relu=rule
  )
  assert float(domains.upper(transformers.relu(element))[0, 0]) >= 2e-38


def test_differences_of_generators_in_margins():
  """The true margin is above 0 although each difference is flushed."""
  generators = np.zeros((1, 1000, 2), np.float32)
  generators[..., 0], generators[..., 1] = 1.3e-38, 1.2e-38
  element = HybridZonotope(
      jnp.array([[0.0, 2e-38]]), None, {"a": Dense(jnp.asarray(generators))}
  )
  margin = losses.margins(element, jnp.array([1]))
  assert not losses.proved(margin, jnp.array([1]))[0]
