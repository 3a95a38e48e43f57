"""A function that computes with the size of its batch is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.graph import from_jax
from diffai_jax.types import UsageError


@pytest.mark.parametrize("function", [
    lambda x: x / len(x),
    lambda x: x - 2 * len(x),
    lambda x: x * np.float32(1 / len(x)),
    lambda x: x @ np.full((3, 2), len(x), np.float32),
    lambda x: x / jnp.linspace(1, len(x), 3),
    lambda x: jnp.mean(x, axis=0, keepdims=True) + x,
])
def test_numbers_of_the_batchs_size_are_refused(function):
  with pytest.raises(UsageError, match="batch") as caught:
    from_jax(function, (3,))
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function", [
    lambda x: x.reshape(-1).reshape(len(x), 3) * 2,
    lambda x: x + jnp.zeros((len(x), 1)),
    lambda x: jnp.concatenate([x, jnp.ones((len(x), 1))], 1),
    jax.vmap(lambda v: jax.nn.softmax(v)[jnp.array([0, 2])]),
    lambda x: jnp.take_along_axis(x, jnp.zeros((len(x), 1), int), 1),
])
def test_shapes_may_have_it(function):
  graph = from_jax(function, (3,))
  x = np.random.default_rng(0).uniform(size=(4, 3)).astype(np.float32)
  np.testing.assert_allclose(graph(x), function(x), rtol=1e-6)
