"""ReLU: sound at every value of the symbols, the rule's formula, gradients."""

import dataclasses
import pathlib

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Dense, HybridZonotope, Product
from diffai_jax.transformers.relu import RULES

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)
DATA = pathlib.Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1.0, 100.0])
def test_covers_the_image_of_every_point(rule, kind, spread):
  rng = np.random.default_rng(0)
  element = elements.random_element(rng, SHAPE, kind, spread=spread)
  element = dataclasses.replace(element, relu=rule)
  result = transformers.relu(element)
  elements.assert_images_covered(
      rng, element, result, lambda x: np.maximum(x, 0), 40
  )


def bounds(element):
  total = np.zeros(np.shape(element.center))
  if element.uncorrelated is not None:
    total += element.uncorrelated
  for block in element.correlated.values():
    total += np.abs(elements.dense_numbers(block)).sum(axis=1)
  return element.center - total, element.center + total


@pytest.mark.parametrize("kind", elements.KINDS)
def test_box_rule_is_the_formula(kind):
  element = elements.random_element(np.random.default_rng(1), SHAPE, kind)
  low, high = bounds(element)
  result = transformers.relu(element)
  center = np.where(low >= 0, element.center, np.maximum(high, 0) / 2)
  radius = np.where(low >= 0, element.uncorrelated, np.maximum(high, 0) / 2)
  np.testing.assert_allclose(result.center, center, atol=1e-12)
  np.testing.assert_allclose(result.uncorrelated, radius, atol=1e-12)
  for name, block in element.correlated.items():
    expected = np.where(low[:, None] >= 0, elements.dense_numbers(block), 0)
    after = elements.dense_numbers(result.correlated[name])
    np.testing.assert_array_equal(after, expected)


relu = jax.jit(lambda x: transformers.relu(x, symbol="fresh"))
RULES_OF_V3 = {"creluBoxy": "box", "creluSwitch": "switch",
               "creluSmooth": "smooth", "creluNIPS": "deepz"}


@pytest.mark.parametrize("name", RULES_OF_V3)
@pytest.mark.parametrize("domain", ["HybridZonotope", "Zonotope"])
@pytest.mark.parametrize("case", range(4))
def test_rules_equal_diffai_v3(case, domain, name):
  """Values of an independent implementation, in every field."""
  with np.load(DATA / "relu_deeploss.npz") as file:
    values = dict(file)
  key = f"relu{case}.{domain}.{name}."
  if key + "head" not in values:
    pytest.skip("the reference has no zonotope without generators")

  def blocks(key):
    errors = values.get(key + "errors")
    return None if errors is None else np.moveaxis(errors, 0, 1)

  before = blocks(f"relu{case}.in.")
  known = {} if before is None else {"a": Dense(before)}
  result = relu(HybridZonotope(
      values[f"relu{case}.in.head"], values.get(f"relu{case}.in.beta"), known,
      relu=RULES_OF_V3[name], zonotope=domain == "Zonotope",
  ))
  exact = {"rtol": 0, "atol": 1e-9}
  np.testing.assert_allclose(result.center, values[key + "head"], **exact)
  after = blocks(key)
  if before is not None:
    np.testing.assert_allclose(
        elements.dense_numbers(result.correlated["a"]),
        after[:, : before.shape[1]], **exact,
    )
  if domain == "Zonotope":
    np.testing.assert_allclose(
        np.abs(elements.dense_numbers(result.correlated["fresh"])),
        np.abs(after[:, before.shape[1] :]), **exact,
    )
  else:
    np.testing.assert_allclose(
        result.uncorrelated, values[key + "beta"], **exact
    )


def test_without_generators_it_is_interval_arithmetic():
  element = elements.random_element(np.random.default_rng(2), SHAPE)
  low, high = bounds(element)
  result = transformers.relu(element)
  np.testing.assert_allclose(
      domains.lower(result), np.maximum(low, 0), atol=1e-12
  )
  np.testing.assert_allclose(
      domains.upper(result), np.maximum(high, 0), atol=1e-12
  )


def test_points_products_and_jit_agree_with_the_concrete_run():
  rng = np.random.default_rng(3)
  x = rng.normal(size=(3, *SHAPE))
  element = elements.random_element(rng, SHAPE, "several")
  result = jax.jit(transformers.relu)(Product((x, domains.point(x), element)))
  np.testing.assert_array_equal(result[0], np.maximum(x, 0))
  np.testing.assert_allclose(result[1].center, np.maximum(x, 0), atol=1e-12)
  assert np.all(np.asarray(domains.radius(result[1])) < 1e-12)
  eager = transformers.relu(element)
  for one, other in zip(jax.tree.leaves(result[2]), jax.tree.leaves(eager)):
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_finite_at_every_corner(rule):
  """At l = u, l = 0, u = 0, and where all of them are 0."""
  center = np.array([[0.0, 1.0, -1.0, 0.5, -0.5, 0.2]])
  radius = np.array([[0.0, 0.0, 0.0, 0.5, 0.5, 1.0]])
  generators = Dense(np.zeros((1, 2, 6)))

  def total(center, radius, generators):
    element = HybridZonotope(center, radius, {"a": generators}, rule)
    result = transformers.relu(element)
    return jnp.sum(domains.upper(result) - 2 * domains.lower(result))

  for gradient in jax.tree.leaves(
      jax.jit(jax.grad(total, (0, 1, 2)))(center, radius, generators)
  ):
    assert np.all(np.isfinite(gradient))


def test_nan_and_infinite_bounds_prove_nothing():
  center = np.array([[np.nan, 1.0, 1.0]])
  radius = np.array([[0.1, np.nan, np.inf]])
  upper = jax.jit(
      lambda *box: domains.upper(transformers.relu(domains.box(*box)))
  )
  high = np.asarray(upper(center, radius))[0]
  assert np.isnan(high[:2]).all()
  assert not np.isfinite(high[2])


def test_unknown_rule_and_kind_are_refused():
  element = HybridZonotope(np.zeros((1, 2)), relu="smart")
  with pytest.raises(ValueError, match="unknown ReLU rule 'smart'; known: box, "):
    transformers.relu(element)
  with pytest.raises(TypeError, match="relu has no rule for list"):
    transformers.relu([1.0])
