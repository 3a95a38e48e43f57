"""Initial weights that keep bounds, not only points, at their size."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.types import Array, PRNGKey


def interval(key: PRNGKey, shape: tuple[int, ...], dtype=None) -> Array:
  """Normal weights with standard deviation sqrt(2π) / fan_in.

  With it the expected radius of a box stays the same through a layer and its
  ReLU, where the usual initialisers make it grow with sqrt(fan_in) a layer
  (Shi et al. 2021, "Fast certified robust training with short warmup",
  section 4.1).

  Args:
    key: random key.
    shape: [..., in, out]; fan_in is the product of all but the last.
    dtype: of the weights; None is JAX's default float.
  """
  fan_in = math.prod(shape[:-1])
  std = math.sqrt(2 * math.pi) / fan_in
  return std * jax.random.normal(key, shape, dtype or jnp.result_type(float))


zeros = nn.initializers.zeros_init()
