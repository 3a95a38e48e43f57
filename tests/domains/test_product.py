"""Products: their parts, in order, and back."""

import jax.numpy as jnp
import numpy as np

from diffai_jax import domains
from diffai_jax.domains import Product
from diffai_jax.domains.product import rebuild


def test_parts_are_taken_apart_and_put_back_in_order():
  x, y, z = jnp.zeros((2, 3)), jnp.ones((2, 3)), domains.point(jnp.ones((2, 3)))
  nested = Product((x, Product((z, y))))
  assert [id(part) for part in domains.parts(nested)] == [id(x), id(z), id(y)]
  again = rebuild(nested, domains.parts(nested))
  assert again[0] is x and again[1][0] is z and again[1][1] is y
  assert domains.parts(x) == [x] or domains.parts(x)[0] is x


def test_example_shape_leaves_the_batch_out():
  x = jnp.zeros((2, 3, 4))
  assert domains.example_shape(x) == (3, 4)
  assert domains.example_shape(domains.point(x)) == (3, 4)
  assert domains.example_shape(Product((x, domains.point(x)))) == (3, 4)
  np.testing.assert_array_equal(Product((x,))[0], x)
