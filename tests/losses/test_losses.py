"""Margins bound every point; what is proved is all(margin < 0)."""

import dataclasses

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import losses, transformers
from diffai_jax.domains import Dense, HybridZonotope
from diffai_jax.domains.generators import to_dense

pytestmark = pytest.mark.usefixtures("float64")
LABELS = np.array([0, 4, 2])


margins = jax.jit(losses.margins)


def logits_element(kind="several", seed=0):
  return elements.random_element(np.random.default_rng(seed), (5,), kind)


@pytest.mark.parametrize("kind", ["none", "dense", "diagonal", "several"])
def test_margins_bound_every_difference_and_are_reached(kind):
  element = logits_element(kind)
  margin = np.asarray(margins(element, LABELS))
  element = jax.tree.map(np.asarray, element)
  np.testing.assert_array_equal(margin[np.arange(3), LABELS], 0)
  rng = np.random.default_rng(1)
  for corner in [False] * 50 + [True] * 200:
    point = elements.point_of(
        element, elements.draw_noise(rng, element, corner)
    )
    difference = point - point[np.arange(3), LABELS][:, None]
    assert np.all(difference <= margin + 1e-14)
  # The bound itself, from the definition.
  for b, y in enumerate(LABELS):
    for k in range(5):
      if k == y:
        continue
      expected = element.center[b, k] - element.center[b, y]
      expected += element.uncorrelated[b, k] + element.uncorrelated[b, y]
      for block in element.correlated.values():
        g = elements.coefficients(block)[b]
        expected += np.abs(g[:, k] - g[:, y]).sum()
      np.testing.assert_allclose(margin[b, k], expected, rtol=1e-12)


def test_margins_of_logits_are_differences():
  logits = np.random.default_rng(0).normal(size=(3, 5))
  expected = logits - logits[np.arange(3), LABELS][:, None]
  np.testing.assert_array_equal(losses.margins(jnp.asarray(logits), LABELS),
                                expected)


def test_shared_symbols_cancel_in_margins_but_not_in_worst_case_logits():
  generators = Dense(jnp.ones((1, 1, 2)))
  element = HybridZonotope(jnp.array([[1.0, 0.5]]), None, {"a": generators})
  label = jnp.array([0])
  np.testing.assert_allclose(losses.margins(element, label)[0, 1], -0.5)
  worst = losses.worst_case_logits(element, label)
  np.testing.assert_allclose(worst, [[0.0, 1.5]], atol=1e-12)


def test_cross_entropy_is_that_of_logits_and_bounds_that_of_points():
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(3, 5))
  shifted = logits - logits.max(axis=1, keepdims=True)
  softmax = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
  expected = -np.log(softmax[np.arange(3), LABELS])
  found = losses.cross_entropy(losses.margins(jnp.asarray(logits), LABELS))
  np.testing.assert_allclose(found, expected, rtol=1e-12)

  element = logits_element()
  bound = losses.cross_entropy(losses.margins(element, LABELS))
  at = jax.jit(lambda x: losses.cross_entropy(losses.margins(x, LABELS)))
  for _ in range(50):
    point = elements.point_of(element, elements.draw_noise(rng, element, True))
    assert np.all(at(point) <= bound)


def test_cross_entropy_of_huge_margins_is_finite_with_a_useful_gradient():
  margin = jnp.array([[0.0, 1e30, -1e30]])
  value, gradient = jax.jit(jax.value_and_grad(
      lambda m: losses.cross_entropy(m).sum()
  ))(margin)
  np.testing.assert_allclose(value, 1e30)
  np.testing.assert_allclose(gradient, [[0, 1, 0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 1.0])
def test_what_is_not_below_zero_proves_nothing(bad):
  labels = jnp.array([0, 0, 1])
  margin = jnp.array([[0.0, -1.0, bad], [0.0, -1.0, -2.0], [bad, 0.0, -1.0]])
  np.testing.assert_array_equal(
      losses.proved(margin, labels), [False, True, False]
  )
  worst = np.asarray(losses.worst_margin(margin, labels))
  np.testing.assert_array_equal(worst > 0, [False, True, False])
  np.testing.assert_allclose(worst[1], 1.0)


def test_nan_in_an_element_proves_nothing():
  element = HybridZonotope(
      jnp.array([[5.0, 0.0, 0.0]]), jnp.array([[0.0, np.nan, 0.0]])
  )
  labels = jnp.array([0])
  margin = losses.margins(element, labels)
  assert not losses.proved(margin, labels)[0]
  worst = losses.worst_margin(margin, labels)
  assert np.isnan(worst[0])


def test_float32_margins_hold_in_exact_arithmetic():
  rng = np.random.default_rng(3)
  element = HybridZonotope(
      rng.normal(size=(4, 5)).astype(np.float32) * 100,
      np.abs(rng.normal(size=(4, 5))).astype(np.float32) * 1e-6,
      {"a": Dense(rng.normal(size=(4, 2000, 5)).astype(np.float32))},
  )
  labels = np.array([0, 1, 2, 3])
  found = np.asarray(losses.margins(element, labels), np.float64)
  c, r = (np.asarray(v, np.float64)
          for v in (element.center, element.uncorrelated))
  g = elements.coefficients(element.correlated["a"]).astype(np.float64)
  for b, y in enumerate(labels):
    exact = c[b] - c[b, y] + r[b] + r[b, y]
    exact += np.abs(g[b] - g[b][:, [y]]).sum(axis=0)
    exact[y] = 0
    assert np.all(found[b] >= exact)
    np.testing.assert_allclose(found[b], exact, rtol=1e-3)


def test_margins_of_logits_that_are_a_flat_image():
  """Windows of one pixel, as a network without dense layers ends in."""
  rng = np.random.default_rng(3)
  image = elements.random_element(rng, (2, 3, 1), "local")
  labels = jnp.asarray([0, 3, 5])

  @jax.jit
  def both(image):
    flat = transformers.flatten(image)
    dense = dataclasses.replace(flat, correlated={
        name: to_dense(block) for name, block in flat.correlated.items()
    })
    return losses.margins(flat, labels), losses.margins(dense, labels)

  np.testing.assert_allclose(*both(image), rtol=1e-12)


def test_unknown_kinds_are_refused():
  with pytest.raises(TypeError, match="margins has no rule for list"):
    losses.margins([1.0], LABELS)
