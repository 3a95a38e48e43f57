"""Products of arrays with matrices, sums with vectors; arrays in one.

Products are of the last axis, and have leading axes flattened into one: where a
gradient sums over several axes XLA transposes its operands first, and over one
axis it does not.

Products are of the highest precision. In a training step they have the device's
default, and a kernel in bfloat16 makes its whole product one of bfloat16,
gradients too, whatever x is; the result has the type of x again. Bounds do not
allow for that: see `kernels.precision`.
"""

from collections.abc import Callable, Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.kernels import precision
from diffai_jax.kernels.platforms import computed_once, on_cpu
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


def _add_vector_backward(_, cotangent):
  """On CPUs the sum over all but the last axis is a product with ones.

  XLA would sum on one core, and compute the cotangent for it once more, all the
  way from the gradient of a ReLU behind.
  """

  def with_ones(cotangent):
    cotangent = lax.optimization_barrier(cotangent)
    rows = flat(cotangent)
    return cotangent, jnp.ones(rows.shape[0], rows.dtype) @ rows

  def plain(cotangent):
    return cotangent, jnp.sum(flat(cotangent), axis=0)

  return on_cpu(with_ones, plain, cotangent)


_add_vector.defvjp(lambda x, bias: (x + bias, None), _add_vector_backward)


def sum_of_squares(arrays: Sequence[Array]) -> Array:
  """Over all entries of all arrays, without care for overflow."""

  def products(arrays):  # XLA's sums for CPUs take several passes.
    return sum(jnp.vdot(a, a) for a in (a.reshape(-1) for a in arrays))

  def plain(arrays):
    return sum(jnp.sum(jnp.square(a)) for a in arrays)

  return on_cpu(products, plain, arrays)


def apply_stacked(
    function: Callable[[Array], Array], arrays: Sequence[Array]
) -> list[Array]:
  """[function(a) for a in arrays], as one call on all of them stacked.

  Args:
    function: maps each entry of axis 0 on its own.
    arrays: [N, ...] of any N each.
  """
  if len(arrays) < 2:
    return [function(a) for a in arrays]
  sizes = [a.shape[0] for a in arrays]
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  # What stands before, such as a ReLU, would be computed while it is stacked.
  stacked = jnp.concatenate(computed_once(list(arrays)))
  return jnp.split(function(stacked), ends)


def concatenate(arrays: Sequence[Array], axis: int) -> Array:
  """The arrays in one, which is written down once, gradients too.

  The gradient of each layer of a dense network is a sum over all later ones,
  which would be computed anew for the layer's bias and for its kernel.
  """
  return computed_once(jnp.concatenate(arrays, axis=axis))
