"""Products of arrays with matrices, and sums with vectors, fast forward and back.

Both are of the last axis, and both have leading axes flattened into one: where a
gradient sums over several axes XLA transposes its operands first, and over one
axis it does not; docs/performance.md has what that gains.

A kernel in bfloat16 makes its whole product one of bfloat16, gradients too,
whatever x is; the result has the type of x again. Bounds do not allow for that.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.types import Array


def in_type_of_kernel(function: Callable) -> Callable:
  """function(x, kernel, ...), in bfloat16 if the kernel is."""

  @functools.wraps(function)
  def wrapped(x, kernel, *rest):
    if kernel.dtype != jnp.bfloat16:
      return function(x, kernel, *rest)
    return function(x.astype(kernel.dtype), kernel, *rest).astype(x.dtype)

  return wrapped


@in_type_of_kernel
def multiply(x: Array, kernel: Array) -> Array:
  """x @ kernel, [..., n] and [n, k]."""
  return (flat(x) @ kernel).reshape(x.shape[:-1] + kernel.shape[-1:])


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
