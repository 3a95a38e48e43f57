"""Reshaping: exact, in every field."""

import elements
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Product

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("kind", elements.KINDS)
@pytest.mark.parametrize("uncorrelated", [True, False])
def test_every_point_is_reshaped(kind, uncorrelated):
  rng = np.random.default_rng(0)
  element = elements.random_element(
      rng, (2, 3, 2), kind, uncorrelated=uncorrelated
  )
  result = transformers.reshape(element, (4, 3))
  noise = elements.draw_noise(rng, element)
  reshaped = noise | {None: noise[None].reshape(3, 4, 3)}
  np.testing.assert_array_equal(
      elements.point_of(result, reshaped),
      elements.point_of(element, noise).reshape(3, 4, 3),
  )


def test_flatten_takes_arrays_elements_and_products():
  x = jnp.arange(24.0).reshape(2, 3, 4)
  result = transformers.flatten(Product((x, domains.point(x))))
  np.testing.assert_array_equal(result[0], x.reshape(2, 12))
  np.testing.assert_array_equal(result[1].center, x.reshape(2, 12))


def test_unknown_kinds_are_refused_by_name():
  with pytest.raises(TypeError, match="reshape has no rule for list"):
    transformers.reshape([1.0], (1,))
