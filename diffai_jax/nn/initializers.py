"""Initial weights that keep bounds, not only points, at their size."""

from collections.abc import Callable
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


def dirac(key: PRNGKey, shape: tuple[int, ...], dtype=None) -> Array:
  """The identity of channels, plus a quarter of `interval`'s weights.

  Output j has input j mod (number of inputs), at the kernel's middle. In deep
  chains `interval` keeps the size of bounds, but what tells two images apart
  shrinks by sqrt(2π / fan_in) a layer; the identity keeps both (Zagoruyko and
  Komodakis 2017, "DiracNets"). Images of few channels and layers that only
  few inputs lead to get `interval` alone, and so do dense layers that change
  the width.

  Args:
    key: random key.
    shape: [kh, kw, in, out] or [in, out].
    dtype: of the weights; None is JAX's default float.
  """
  noise = interval(key, shape, dtype)
  inputs, outputs = shape[-2:]
  if inputs < _FEW or (len(shape) == 2 and inputs != outputs):
    return noise
  middle = tuple(size // 2 for size in shape[:-2])
  places = jnp.arange(outputs)
  return (noise / 4).at[(*middle, places % inputs, places)].add(1)


_FEW = 8  # Channels; an image has fewer.


def residual(kernel_init: Callable, blocks: int) -> Callable:
  """Initial weights for the last layer of a residual block's body.

  With `dirac`, the skip alone has the identity, and the body ends in weights of
  1/blocks of `interval`'s size: bounds grow by (1 + 1/blocks) a block, by e at
  most over all of them (after Zhang et al. 2019, "Fixup initialization"). With
  other initialisers the last layer has the weights of all others.

  Args:
    kernel_init: of the other layers.
    blocks: how many blocks follow each other in the network.
  """
  if kernel_init is not dirac:
    return kernel_init

  def scaled(key: PRNGKey, shape: tuple[int, ...], dtype=None) -> Array:
    return interval(key, shape, dtype) / blocks

  return scaled


# By the name that a config gives: `interval`; He et al. 2015; and PyTorch's
# default, uniform within ±1/sqrt(fan_in), which DiffAI v3 trained from.
INITIALIZERS = {
    "interval": interval,
    "dirac": dirac,
    "he": nn.initializers.he_normal(),
    "pytorch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
}
zeros = nn.initializers.zeros_init()
