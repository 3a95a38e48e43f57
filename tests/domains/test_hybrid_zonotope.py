"""Makers and bounds of hybrid zonotopes, against the definition of γ."""

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
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
