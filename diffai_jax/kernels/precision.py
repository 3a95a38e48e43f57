"""Which floating-point type bounds are computed in, and how carefully.

Three rules make a bound hold for the type that it claims.

- What meets is brought to *one* type first, the widest of what is given, and a
  strong one: under JAX's promotion a weakly typed radius (a Python number, or an
  array made of one) would give way to a narrower kernel, and be computed with its
  errors. Widening is exact.
- Errors are allowed for as if all had been computed in the *narrowest* type that
  is given (`rounding` says how large they are). A bfloat16 kernel thus widens
  bounds as much as a run in bfloat16 is off; of long sums nothing can be said
  then, and bounds are NaN.
- Matrix products and convolutions are asked for at the highest precision, which
  on GPUs and TPUs is that of their type.

A training step wants none of this of its matrix products: it computes losses, not
proofs, and takes the device's fast products and bfloat16 kernels. It says so with
`for_losses`, which JAX's caches of traced functions know of.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import platforms
from diffai_jax.types import Array

# `with for_losses(True):` bounds that are traced here serve losses alone, and
# prove nothing: products have the device's default precision, those with a
# bfloat16 kernel are computed in bfloat16, and sums that may overflow pass.
for_losses = jax.make_user_context(False)


def of_products() -> lax.Precision | None:
  """The precision that a matrix product or convolution must ask for."""
  if for_losses.value:
    return platforms.here().training_products
  return lax.Precision.HIGHEST


def rounds_products(kernel: Array) -> bool:
  """Whether products with this kernel are computed in bfloat16."""
  return for_losses.value and kernel.dtype == jnp.bfloat16


def not_merged(factor: Array) -> Array:
  """A factor that the compiler multiplies with no other, on any platform.

  Of constants, as in (x·1e-30)·1e-30, XLA multiplies the two, which underflows
  where the products of the network do not.
  """
  return lax.optimization_barrier(factor)


def widest(*values):
  """The type that holds all numbers of these, as far as JAX has it.

  Args:
    values: arrays, of JAX or NumPy, and Python's numbers. Weakly typed ones,
      numbers among them, count only if there are no others.

  Raises:
    TypeError: if none is of a floating-point type.
  """
  strong = _types(values, weak=False) or _types(values, weak=True)
  if not strong:
    kinds = {str(getattr(v, "dtype", type(v).__name__)) for v in values}
    raise TypeError(
        f"elements are of floating-point numbers, not"
        f" {', '.join(sorted(kinds))}; convert them first"
    )
  return functools.reduce(jnp.promote_types, strong)


def narrowest(*values):
  """The type of the largest errors among arrays; None if there is none.

  Python's numbers and weakly typed arrays do not count.
  """
  types = _types(values, weak=False)
  return max(types, key=lambda t: jnp.finfo(t).eps, default=None)


def holds(dtype, other) -> bool:
  """Whether a floating-point type has all numbers of another."""
  own, other = jnp.finfo(dtype), jnp.finfo(other)
  return own.nmant >= other.nmant and own.maxexp >= other.maxexp


def strongly(value, dtype) -> Array:
  """An array of exactly this type, never a weak one."""
  if isinstance(value, jax.Array) and not _is_weak(value):
    if value.dtype == dtype:
      return value
  return jnp.asarray(value, dtype)


def in_one_type(value):
  """A pytree of arrays, such as an element, with all of them in one type."""
  dtype = widest(*jax.tree.leaves(value))
  return jax.tree.map(lambda leaf: strongly(leaf, dtype), value)


def _types(values, weak: bool) -> list:
  types = []
  for value in values:
    if not hasattr(value, "dtype"):
      continue
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    if jnp.issubdtype(dtype, jnp.floating) and (weak or not _is_weak(value)):
      types.append(dtype)
  return types


def _is_weak(value) -> bool:
  return isinstance(value, float) or getattr(value, "weak_type", False)


def refuse(wrong, message: str, found=None) -> None:
  """Raises ValueError if any entry of `wrong` is known to be True.

  Values that are traced are not known; whoever asks makes NaN of them.

  Args:
    wrong: bool, an array of JAX or NumPy, or Python's.
    message: one line: what was expected and what to do.
    found: an array that broadcasts against `wrong`, an entry of which the
      message begins with.
  """
  if not is_known(wrong) or (found is not None and not is_known(found)):
    return
  wrong = np.asarray(wrong)
  if not wrong.any():
    return
  if found is None:
    raise ValueError(message)
  found = np.broadcast_to(np.asarray(found), wrong.shape)[wrong].flat[0]
  raise ValueError(f"{float(found):g} {message}")


def is_known(value) -> bool:
  """Whether the numbers of an array can be looked at here and now."""
  if isinstance(value, jax.core.Tracer):
    return False
  return not isinstance(value, jax.Array) or value.is_fully_addressable
