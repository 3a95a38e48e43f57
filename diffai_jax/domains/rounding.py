"""Error bounds of floating-point arithmetic, which transformers allow for.

Bounds are computed in floating point, and so is the network that they speak
of. Each transformer therefore widens its result by more than both can be off:
what it returns holds for the network in exact arithmetic *and* for every
evaluation of it in the element's own floating-point type, whatever the order
of its sums, with or without fused multiply-adds.

The facts used (Higham, "Accuracy and Stability of Numerical Algorithms",
2nd ed., sections 2.2, 2.9 and 3.1): with unit roundoff u, a sum of n products
computed in any order is off by at most n·u/(1 - n·u) times the sum of the
products' absolute values, plus at most one smallest normal number for each
operation whose result underflows or is flushed to zero, sums too. Where the sum
of absolute values could exceed the largest number, a partial sum may overflow
in one order and not in another: there is no bound. Fast algorithms that add before
they multiply (Winograd, Strassen) do not obey this; they are not used on CPU
and TPU.

The widening carries no gradient: it is not what training should minimise.
"""

import jax
import jax.numpy as jnp

# Operations around a sum of products that round as well: bias, differences,
# the widening itself.
_EXTRA_TERMS = 8


def relative(dtype, terms: int) -> float:
  """Bound of the error of one evaluation of a sum, relative to Σ|products|.

  Args:
    dtype: the floating-point type computed in.
    terms: how many products each output sums.

  Returns:
    m·u/(1 - 4m·u) with m = terms + 8; the denominator covers terms of
    second order. Infinite for sums so long that no bound holds.
  """
  return _share(dtype, terms)


def relative_each(dtype, terms: jax.Array) -> jax.Array:
  """`relative` of sums whose numbers of terms are computed, in that type."""
  share = (terms + _EXTRA_TERMS) * (float(_info(dtype).eps) / 2)
  # The powers of two that are multiplied by round nothing.
  return jnp.where(share < 0.125, share / (1 - 4 * share), jnp.inf)


def _share(dtype, terms: int) -> float:
  unit = float(_info(dtype).eps) / 2
  share = (terms + _EXTRA_TERMS) * unit
  return share / (1 - 4 * share) if share < 0.125 else float("inf")


def elementary(dtype) -> float:
  """Bound of the relative error of up to three elementary operations, 4u."""
  return 2 * float(_info(dtype).eps)


def absolute(dtype, terms: int) -> float:
  """Bound of what underflow can lose in a sum of `terms` products.

  Args:
    dtype: the floating-point type computed in.
    terms: how many products each output sums, those of all symbols included.
  """
  return 4 * (terms + _EXTRA_TERMS) * tiny(dtype)


def tiny(dtype) -> float:
  """The smallest normal number: what one operation can lose to underflow."""
  return float(_info(dtype).tiny)


def largest(dtype) -> float:
  """A number that sums may reach without overflow, whatever their order.

  A quarter of the largest number: the computed bound of a sum is off by less.
  """
  return float(_info(dtype).max) / 4


def largest_allowance(dtype, terms: int) -> float:
  """What twice `relative` of a sum of that size is."""
  return 2 * _share(dtype, terms) * largest(dtype)


def _info(dtype):
  """Of the type that JAX computes in: float32 for NumPy's float64, unless x64."""
  return jnp.finfo(jax.dtypes.canonicalize_dtype(dtype))
