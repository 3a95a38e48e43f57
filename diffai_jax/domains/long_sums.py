"""Sums of many numbers that round as sums of few do: in stages.

A sum of n numbers in an unknown order may be off by n·u of their magnitudes. Where k
numbers are added at a time, and then k of these sums, and so on, it is off by k·u for
each stage (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section
4.2 and lemma 3.3). Between the stages stands a selection, which no compiler may move a
sum across.
"""

import jax.numpy as jnp
from jax import lax

from diffai_jax.domains import rounding
from diffai_jax.kernels.platforms import computed_once
from diffai_jax.types import Array

_MOST, _LEAST = 16, 8  # Numbers that a stage adds at a time.


def long_sum(values: Array) -> Array:
  """The sum over the last axis, [..., n] -> [...].

  Off by at most `rounding.relative(dtype, terms_of(n))` of the sum of magnitudes, and
  `rounding.absolute(dtype, n)`; NaN where a sum may have overflowed. Rows of what is
  in memory are added, which vectorises: where they are computed as they are added,
  XLA's programs for CPUs take three to four times as long. The last stage is a
  product with ones, since XLA's sums along the last axis take twice as long there.
  """
  lead, values = values.shape[:-1], computed_once(values)
  while (count := values.shape[-1]) > _MOST:
    rows = _rows(count)
    columns = -(-count // rows)
    if rows * columns > count:
      more = [(0, 0)] * len(lead) + [(0, rows * columns - count)]
      values = jnp.pad(values, more)
    values = _known(jnp.sum(values.reshape(lead + (rows, columns)), axis=-2))
  return _known(_product(values))


def terms_of(count: int) -> int:
  """As many terms as a sum has that rounds as `long_sum` of `count` numbers."""
  terms = 0
  while count > _MOST:
    rows = _rows(count)
    terms, count = terms + rows, -(-count // rows)
  return terms + max(1, count)


def _rows(count: int) -> int:
  """How many rows a stage adds: a divisor, if there is a large one."""
  return next(
      (n for n in range(_MOST, _LEAST - 1, -1) if count % n == 0), _MOST
  )


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
