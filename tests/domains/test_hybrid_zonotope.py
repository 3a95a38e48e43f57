"""Makers and bounds of hybrid zonotopes, against the definition of γ."""

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Diagonal, HybridZonotope


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("uncorrelated", [True, False])
@pytest.mark.parametrize("kind", elements.KINDS)
def test_bounds_contain_every_point_and_are_reached(kind, uncorrelated):
  rng = np.random.default_rng(0)
  element = elements.random_element(
      rng, (4, 5, 2), kind, uncorrelated=uncorrelated
  )
  low, high = domains.lower(element), domains.upper(element)
  for corner in [False] * 20 + [True] * 20:
    point = elements.point_of(
        element, elements.draw_noise(rng, element, corner)
    )
    assert np.all(low <= point) and np.all(point <= high)
  total = np.zeros(np.shape(element.center))
  if uncorrelated:
    total += element.uncorrelated
  for block in element.correlated.values():
    total += np.abs(elements.coefficients(block)).sum(axis=1)
  np.testing.assert_allclose(domains.radius(element), total, rtol=1e-12)
  np.testing.assert_allclose(low, element.center - total, rtol=0, atol=1e-12)
  np.testing.assert_allclose(high, element.center + total, rtol=0, atol=1e-12)


def test_point_and_box():
  x = jnp.arange(6.0).reshape(2, 3)
  assert domains.point(x).uncorrelated is None
  np.testing.assert_array_equal(domains.radius(domains.point(x)), 0)
  element = domains.box(x, 0.5)
  np.testing.assert_array_equal(element.uncorrelated, np.full((2, 3), 0.5))
  np.testing.assert_allclose(domains.lower(element), x - 0.5, rtol=1e-6)
  np.testing.assert_allclose(domains.upper(element), x + 0.5, rtol=1e-6)


def test_correlated_box_has_one_symbol_a_variable():
  element = domains.correlated_box(jnp.zeros((2, 3)), jnp.ones((2, 3)), "pixel")
  assert element.uncorrelated is None
  assert list(element.correlated) == ["pixel"]
  assert isinstance(element.correlated["pixel"], Diagonal)
  np.testing.assert_array_equal(domains.radius(element), 1)


def test_float32_bounds_hold_in_exact_arithmetic():
  """No point within the exact bounds may be lost to float32 rounding."""
  rng = np.random.default_rng(0)
  low = rng.uniform(-1, 1, (50, 400)).astype(np.float32)
  for width in (0, 1e-9, 1e-7, 1e-3, 10):
    high = (low + np.float32(width)).astype(np.float32)
    element = domains.from_bounds(low, high)
    center = np.asarray(element.center, np.float64)
    radius = np.asarray(element.uncorrelated, np.float64)
    assert np.all(center - radius <= low) and np.all(center + radius >= high)
    below = np.asarray(domains.lower(element), np.float64)
    above = np.asarray(domains.upper(element), np.float64)
    assert np.all(below <= center - radius)
    assert np.all(above >= center + radius)
    assert np.all(above - below <= 1.001 * width + 1e-5)


def test_float32_radius_of_many_symbols_is_at_least_the_exact_sum():
  rng = np.random.default_rng(0)
  coefficients = rng.normal(size=(2, 5000, 7)).astype(np.float32)
  element = HybridZonotope(
      jnp.zeros((2, 7)), None, {"a": domains.Dense(coefficients)}
  )
  exact = np.abs(coefficients.astype(np.float64)).sum(axis=1)
  found = np.asarray(domains.radius(element), np.float64)
  assert np.all(found >= exact)
  np.testing.assert_allclose(found, exact, rtol=1e-3)


def test_widening_carries_no_gradient():
  def width(radius):
    element = domains.box(jnp.ones(3), radius)
    return jnp.sum(domains.upper(element) - domains.lower(element))

  np.testing.assert_array_equal(jax.grad(width)(jnp.ones(3)), 2)


def test_is_a_pytree_that_jit_and_vmap_take():
  element = domains.correlated_box(jnp.zeros((2, 3)), jnp.ones((2, 3)))
  doubled = jax.jit(lambda e: jax.tree.map(lambda v: 2 * v, e))(element)
  assert isinstance(doubled, HybridZonotope)
  np.testing.assert_array_equal(domains.radius(doubled), 2)
  singles = jax.tree.map(lambda v: v[:, None], element)
  radii = jax.vmap(domains.radius)(singles)
  np.testing.assert_array_equal(radii[:, 0], domains.radius(element))


def test_numpy_float64_without_x64_is_covered_too():
  """JAX holds it in float32; the conversion's error is part of the element."""
  assert not jax.config.jax_enable_x64
  rng = np.random.default_rng(5)
  x = rng.normal(size=(2, 300))
  radius = np.abs(rng.normal(size=x.shape)) * 10.0 ** rng.integers(-9, 1, x.shape)
  for element in (
      domains.box(x, radius),
      domains.correlated_box(x, radius),
      domains.from_bounds(x - radius, x + radius),
  ):
    low, high = map(np.float64, (domains.lower(element), domains.upper(element)))
    assert np.all(low <= x - radius) and np.all(x + radius <= high)
  element = domains.point(x)
  center = np.float64(element.center)
  assert np.all(np.abs(x - center) <= np.float64(element.uncorrelated))
  assert domains.point(np.float32(x)).uncorrelated is None
  # Elements built by hand round like float32, whatever NumPy says.
  kernel = rng.normal(size=(300, 3)).astype(np.float32)
  held = np.float64(np.float32(x))
  image = transformers.dense(
      HybridZonotope(held), jnp.asarray(kernel), jnp.zeros(3)
  )
  low, high = map(np.float64, (domains.lower(image), domains.upper(image)))
  exact = held @ np.float64(kernel)
  assert np.all(low <= exact) and np.all(exact <= high)


def test_whole_numbers_are_refused():
  with pytest.raises(TypeError, match="floating-point numbers, not int32"):
    domains.point(jnp.arange(3)[None])


def test_bounds_near_the_largest_number_do_not_overflow():
  element = domains.from_bounds(jnp.array([[2e38]]), jnp.array([[3e38]]))
  assert float(domains.upper(element)[0, 0]) < np.inf


def test_sums_that_underflow_are_covered():
  """c - r can be a number that float32 flushes to 0."""
  center, radius = np.float32(2.0e-38), np.float32(1.9e-38)
  element = domains.box(jnp.full((1, 1), -center), jnp.full((1, 1), radius))
  assert float(domains.upper(element)[0, 0]) >= np.float64(radius) - center
  # Zero itself is exact: a ReLU must know that it is not crossed.
  zero = domains.box(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
  assert float(domains.lower(zero)[0, 0]) == 0 == domains.upper(zero)[0, 0]
