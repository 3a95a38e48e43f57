"""CorrelateAll: the same set, by the paper's formula, in n numbers."""

import elements
import jax
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Diagonal, Product

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("kind", elements.KINDS)
def test_is_the_papers_formula(kind):
  """h'_B = 0 and h'_{E,i,m+t} = h_{B,i} for t = i, else 0 (section 3.1)."""
  element = elements.random_element(np.random.default_rng(0), (2, 3, 2), kind)
  result = transformers.correlate_all(element, "new")
  assert result.uncorrelated is None
  np.testing.assert_array_equal(result.center, element.center)
  for name, block in element.correlated.items():
    assert result.correlated[name] is block
  assert isinstance(result.correlated["new"], Diagonal)
  new = elements.dense_numbers(result.correlated["new"]).reshape(3, 12, 12)
  flat = np.asarray(element.uncorrelated).reshape(3, 12)
  for t in range(12):
    for i in range(12):
      expected = flat[:, i] if t == i else 0
      np.testing.assert_array_equal(new[:, t, i], expected)


def test_uncorrelated_noise_becomes_the_new_symbols():
  rng = np.random.default_rng(1)
  element = elements.random_element(rng, (6,), "dense")
  result = transformers.correlate_all(element, "new")
  noise = elements.draw_noise(rng, element)
  renamed = noise | {"new": noise[None]}
  np.testing.assert_allclose(
      elements.point_of(result, renamed), elements.point_of(element, noise),
      atol=1e-12,
  )


def test_differences_cancel_after_it():
  """x - x is 0 with symbols, and 2·radius wide without."""
  kernel, total = np.array([[1.0, -1.0]]), np.array([[1.0], [1.0]])

  def difference(value):
    value = transformers.dense(value, kernel, np.zeros(2))
    return domains.radius(transformers.dense(value, total, np.zeros(1)))

  found = jax.jit(lambda element: (
      difference(element),
      difference(transformers.correlate_all(element, "new")),
  ))(domains.box(np.zeros((1, 1)), 1.0))
  for radius, expected in zip(found, (2.0, 0.0)):
    np.testing.assert_allclose(radius, expected, atol=1e-12)


def test_arrays_and_parts_without_error_are_left_alone():
  x = np.ones((2, 3))
  result = transformers.correlate_all(Product((x, domains.point(x))), "new")
  assert result[0] is x
  assert result[1].correlated == {}


def test_a_name_cannot_be_used_twice():
  element = domains.box(np.zeros((1, 2)), 1.0)
  element = transformers.correlate_all(element, "new")
  with pytest.raises(ValueError, match="already has noise symbols named 'new'"):
    transformers.correlate_all(element, "new")
