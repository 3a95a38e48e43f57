"""Products of arrays with matrices, and sums with vectors, fast forward and back.

Both are of the last axis, and both have leading axes flattened into one: where a
gradient sums over several axes XLA transposes its operands first, and over one
axis it does not; docs/performance.md has what that gains.

Products are of the highest precision. In a training step they have the device's
default, and a kernel in bfloat16 makes its whole product one of bfloat16,
gradients too, whatever x is; the result has the type of x again. Bounds do not
allow for that: see `kernels.precision`.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.kernels import precision
from diffai_jax.types import Array


def in_one_type(function: Callable) -> Callable:
  """function(x, kernel, ...) with both in the wider one's type.

  In bfloat16, in a training step with such a kernel.
  """

  @functools.wraps(function)
  def wrapped(x, kernel, *rest):
    if precision.rounds_products(kernel):
      return function(x.astype(kernel.dtype), kernel, *rest).astype(x.dtype)
    # A weakly typed x would give way to a narrower kernel.
    dtype = jnp.result_type(x.dtype, kernel)
    return function(x.astype(dtype), kernel.astype(dtype), *rest)

  return wrapped


@in_one_type
def multiply(x: Array, kernel: Array) -> Array:
  """x @ kernel, [..., n] and [n, k]."""
  product = jnp.matmul(flat(x), kernel, precision=precision.of_products())
  return product.reshape(x.shape[:-1] + kernel.shape[-1:])


def flat(x: Array) -> Array:
  """As a matrix, [..., n] to [m, n]."""
  return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def add_bias(x: Array, bias: Array | float) -> Array:
  """x + bias, broadcast; a bias [n] has the fast form of its gradient."""
  if x.ndim > 1 and jnp.shape(bias) == x.shape[-1:]:
    return _add_vector(x, bias)
  return x + bias


@jax.custom_vjp
def _add_vector(x: Array, bias: Array) -> Array:
  return x + bias


def _add_vector_backward(_, slopes):
  # XLA sums over all but the last axis slowly, and computes the slopes for it once
  # more, all the way from the gradient of a ReLU behind.
  slopes = lax.optimization_barrier(slopes)
  rows = flat(slopes)
  return slopes, jnp.ones(rows.shape[0], rows.dtype) @ rows


_add_vector.defvjp(lambda x, bias: (x + bias, None), _add_vector_backward)
