"""Sums of many numbers that round as sums of few do: in two stages.

A sum of n numbers in an unknown order may be off by n·u of their magnitudes. Sums of
m numbers each, and the sum of these n/m sums, are off by (m + n/m)·u (Higham,
"Accuracy and Stability of Numerical Algorithms", 2nd ed., section 4.2 and lemma 3.3).
Between the stages stands a selection, which no compiler may move a sum across.
"""

import math

import jax.numpy as jnp
from jax import lax

from diffai_jax.domains import rounding
from diffai_jax.types import Array

# Numbers that are summed at once: of fewer a product with ones is slow.
_FEW, _FEWEST = 256, 64


def long_sum(values: Array) -> Array:
  """The sum over the last axis, [..., n] -> [...].

  Off by at most `rounding.relative(dtype, terms_of(n))` of the sum of magnitudes, and
  `rounding.absolute(dtype, n)`; NaN where a sum may have overflowed. Each stage is a
  product with ones: XLA's own sums take thrice as long on CPUs.
  """
  count, lead = values.shape[-1], values.shape[:-1]
  rows, columns = _sides(count)
  more = rows * columns - count
  if more:
    values = jnp.pad(values, [(0, 0)] * len(lead) + [(0, more)])
  if rows > 1:
    values = _known(_product(values.reshape(lead + (rows, columns))))
  return _known(_product(values))


def terms_of(count: int) -> int:
  """As many terms as a sum has that rounds as `long_sum` of `count` numbers."""
  rows, columns = _sides(count)
  return columns + rows if rows > 1 else columns


def _sides(count: int) -> tuple[int, int]:
  """How many sums there are, and of how many numbers; a few more in all."""
  if count <= _FEW:
    return 1, max(1, count)
  most = max(_FEW, math.isqrt(count))
  for columns in range(most, max(_FEWEST, most // 4), -1):
    if count % columns == 0:
      return count // columns, columns
  return -(-count // most), most


def _product(values: Array) -> Array:
  """With ones."""
  dtype = values.dtype
  if not values.shape[-1]:
    return jnp.zeros(values.shape[:-1], dtype)
  return jnp.matmul(
      values, jnp.ones(values.shape[-1:], dtype),
      precision=lax.Precision.HIGHEST,
  )


def _known(total: Array) -> Array:
  """NaN where a sum may have overflowed: it never is a number again."""
  is_known = jnp.abs(total) <= rounding.largest(total.dtype)
  return jnp.where(is_known, total, jnp.nan)
