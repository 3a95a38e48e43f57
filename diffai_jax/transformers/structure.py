"""Transformers that move variables without computing with them."""

import functools
import math

from diffai_jax.domains import generators
from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.domains.product import example_shape
from diffai_jax.transformers.dispatch import register_parts, require_array


@functools.singledispatch
def reshape(x, shape: tuple[int, ...]):
  """Reshapes each example to `shape`; the batch axis stays.

  Exact: variables are renumbered, in all fields alike, and nothing is
  computed. A Diagonal block stays one, since its symbols are numbered in the
  order of the flattened variables, which reshaping keeps.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    shape: one example's new shape, of the same size.

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "reshape")
  return x.reshape((x.shape[0],) + tuple(shape))


register_parts(reshape)


@reshape.register
def _(x: HybridZonotope, shape: tuple[int, ...]) -> HybridZonotope:
  uncorrelated = x.uncorrelated
  if uncorrelated is not None:
    uncorrelated = reshape(uncorrelated, shape)
  correlated = {
      name: generators.reshape(block, shape)
      for name, block in x.correlated.items()
  }
  return HybridZonotope(
      reshape(x.center, shape), uncorrelated, correlated, x.relu
  )


def flatten(x):
  """Reshapes each example to a vector, [B, ...] to [B, n]."""
  return reshape(x, (math.prod(example_shape(x)),))
