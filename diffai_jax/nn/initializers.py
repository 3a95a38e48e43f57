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


# By the name that a config gives: `interval`; He et al. 2015; and PyTorch's
# default, uniform within ±1/sqrt(fan_in), which DiffAI v3 trained from.
INITIALIZERS = {
    "interval": interval,
    "he": nn.initializers.he_normal(),
    "pytorch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
zeros = nn.initializers.zeros_init()
