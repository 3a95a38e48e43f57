"""A factor of each channel, and its gradient, on windows of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.domains import correlated_box, generators, upper


@pytest.mark.optimized
def test_gradients_of_a_batchs_factors_run():
  """XLA's program for a view of the factors ended the process."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.uniform(size=(2, 8, 8, 1)), jnp.float32)
  kernels = [
      jnp.asarray(rng.normal(size=shape), jnp.float32)
      for shape in ((3, 3, 1, 16), (3, 3, 16, 32))
  ]
  factors = [jnp.ones(16), jnp.ones(32)]

  @jax.jit
  @jax.grad
  def gradient(arrays):
    element = correlated_box(x, jnp.full(x.shape, 0.01), "input")
    for kernel, factor in zip(*arrays):
      element = transformers.conv(
          element, kernel, jnp.zeros(kernel.shape[3]), stride=2, padding=1
      )
      element = transformers.relu(
          transformers.scale_shift(element, factor, 0.0)
      )
    return jnp.sum(upper(element))

  for leaf in jax.tree.leaves(gradient((kernels, factors))):
    assert np.all(np.isfinite(leaf)) and np.any(leaf != 0)


def test_windows_are_scaled_as_dense_blocks_are():
  rng = np.random.default_rng(1)
  element = correlated_box(rng.uniform(size=(2, 5, 5, 2)), 0.1, "input")
  kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
  element = transformers.conv(element, kernel, jnp.zeros(3), padding=1)
  block = element.correlated["input"]
  assert isinstance(block, generators.Local)
  dense = generators.to_dense(block)
  for shape in ((), (1,), (3,), (1, 1, 3), (1, 1, 1, 3), (5, 5, 3), (2, 5, 5, 3)):
    factor = jnp.asarray(rng.normal(size=shape), jnp.float32)
    found = generators.to_dense(generators.scale(block, factor))
    expected = generators.scale(dense, factor)
    np.testing.assert_allclose(
        found.coefficients, expected.coefficients, rtol=1e-6
    )
