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
  x = rng.uniform(size=(2, 8, 8, 1)).astype(np.float32)
  kernels = [
      rng.normal(size=shape).astype(np.float32)
      for shape in ((3, 3, 1, 16), (3, 3, 16, 32))
  ]
  factors = [np.ones(16, np.float32), np.ones(32, np.float32)]

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
  image = rng.uniform(size=(2, 5, 5, 2)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 2, 3)).astype(np.float32)
  factors = [
      rng.normal(size=shape).astype(np.float32) for shape in (
          (), (1,), (3,), (1, 1, 3), (1, 1, 1, 3), (5, 5, 3), (2, 5, 5, 3)
      )
  ]

  @jax.jit
  def scaled(image, kernel, factors):
    element = correlated_box(image, 0.1, "input")
    element = transformers.conv(element, kernel, jnp.zeros(3), padding=1)
    block = element.correlated["input"]
    assert isinstance(block, generators.Local)
    dense = generators.to_dense(block)
    return [
        (generators.to_dense(generators.scale(block, factor)),
         generators.scale(dense, factor))
        for factor in factors
    ]

  for found, expected in scaled(image, kernel, factors):
    np.testing.assert_allclose(
        found.coefficients, expected.coefficients, rtol=1e-6
    )
