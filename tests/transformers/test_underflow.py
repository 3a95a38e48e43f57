"""What is so small that float32 flushes it to 0 is covered all the same.

Inputs and weights here are normal numbers; results that are not are lost.
"""

import jax
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, HybridZonotope
from diffai_jax.transformers.relu import RULES

# XLA's optimiser may multiply constants, and flush what is small.
pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("symbols, size, weight", [
    (1000, 1e-20, 1e-19), (784, 1.5e-38, 0.5)
])
def test_products_of_many_symbols(symbols, size, weight):
  element = HybridZonotope(
      np.zeros((1, 10), np.float32), None,
      {"a": Dense(np.full((1, symbols, 10), size, np.float32))},
  )
  kernel, factor = np.full((10, 1), weight, np.float32), np.float32(weight)

  @jax.jit
  def upper(element, kernel, factor):
    image = transformers.dense(element, kernel, np.zeros(1, np.float32))
    scaled = transformers.scale_shift(element, factor, 0.0)
    return domains.upper(image), domains.upper(scaled)

  image, scaled = map(np.asarray, upper(element, kernel, factor))
  assert float(image[0, 0]) >= 10 * symbols * size * weight
  assert float(scaled[0, 0]) >= symbols * size * weight


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("correlated", [False, True])
def test_halves_in_relu(rule, correlated):
  radius = np.full((1, 1), 2e-38, np.float32)
  blocks = {"a": Dense(radius[:, None])} if correlated else {}
  element = HybridZonotope(
      0 * radius, None if correlated else radius, blocks, relu=rule
  )
  upper = jax.jit(lambda x: domains.upper(transformers.relu(x)))(element)
  assert float(np.asarray(upper)[0, 0]) >= 2e-38


def test_differences_of_generators_in_margins():
  """The true margin is above 0 although each difference is flushed."""
  generators = np.zeros((1, 1000, 2), np.float32)
  generators[..., 0], generators[..., 1] = 1.3e-38, 1.2e-38
  element = HybridZonotope(
      np.float32([[0.0, 2e-38]]), None, {"a": Dense(generators)}
  )
  labels = np.array([1])
  proved = jax.jit(lambda x: losses.proved(losses.margins(x, labels), labels))
  assert not np.asarray(proved(element))[0]


def test_sums_and_differences():
  """1.5e-38 - 1.2e-38 is flushed, and doubled 126 times it is 0.255."""
  add = jax.jit(transformers.add)
  upper = lambda x: float(np.asarray(domains.upper(x))[0, 0])
  first, second = (
      domains.point(np.full((1, 1), x, np.float32)) for x in (1.5e-38, 1.2e-38)
  )
  total = jax.jit(transformers.subtract)(first, second)
  exact = np.float64(np.float32(1.5e-38)) - np.float64(np.float32(1.2e-38))
  for _ in range(126):
    total = add(total, total)
  assert upper(total) >= exact * 2.0**126 > 0.2
  # Of nothing there is nothing to lose.
  nothing = domains.point(np.zeros((1, 1), np.float32))
  assert upper(add(nothing, nothing)) == 0


@pytest.mark.parametrize("low, high", [
    (-1.7977435e-37, -1.6207296e-37), (1.2e-38, 1.3e-38), (-1.2e-38, 1.2e-38)
])
def test_bounds_that_are_close_to_each_other(low, high):
  low, high = np.float32(low), np.float32(high)
  element = jax.jit(domains.from_bounds)(low[None, None], high[None, None])
  center, radius = np.float64(element.center), np.float64(element.uncorrelated)
  assert center - radius <= low and high <= center + radius


def test_maxima_of_numbers_that_are_close_to_each_other():
  center = np.float32([1.3e-38, 1.2e-38, 0, 0]).reshape(1, 2, 2, 1)
  radius = np.float32([0, 1.18e-38, 0, 0]).reshape(1, 2, 2, 1)
  element = HybridZonotope(
      center, radius, {"a": Dense(0 * center[:, None])}, relu="deepz"
  )
  upper = jax.jit(lambda x: domains.upper(transformers.max_pool(x, 2)))(element)
  highest = np.sum(np.float64([center[0, 0, 1, 0], radius[0, 0, 1, 0]]))
  assert float(np.asarray(upper)[0, 0, 0, 0]) >= highest


def test_constants_are_not_multiplied_with_each_other():
  """XLA would make 1e-60 of the first two, which is 0."""

  @jax.jit
  def network(x):
    for factor in (1e-30, 1e-30, 1e22):
      x = transformers.scale_shift(x, factor, 0.0)
    return x

  x = np.full((2, 3), 1e38, np.float32)
  np.testing.assert_allclose(network(x), 1.0, rtol=1e-5)
  result = network(domains.point(x))
  assert np.all(domains.lower(result) <= 1) and np.all(domains.upper(result) >= 1)
