"""What one step backwards gives: coefficients on the inputs, and what is left."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pulled:
  """⟨Λ, y⟩ ≤ Σ_i ⟨Λ_i, x_i⟩ + constant + slack, for every run in the region.

  Attributes:
    inputs: Λ_i, [B, S, ...] for each input.
    constant: [B, S].
    slack: what rounding may add, ≥ 0, [B, S]. It carries no gradient.
  """

  inputs: tuple[Array, ...]
  constant: Array
  slack: Array


def contracted(
    coefficients: Array, values: Array
) -> tuple[Array, Array]:
  """⟨Λ, v⟩ for each example and row, and what its rounding can be off by.

  Args:
    coefficients: Λ, [B, S, ...].
    values: v, [B or 1, S or 1, ...].

  Returns:
    [B, S] each.
  """
  return total(coefficients * values)


def total(terms: Array) -> tuple[Array, Array]:
  """The sums over all axes but the first two, and what rounding can be off by.

  Each term is a product or a sum of two.
  """
  axes = tuple(range(2, terms.ndim))
  count = max(1, terms[0, 0].size)
  size = jnp.sum(jnp.abs(terms), axes)
  slack = 2 * rounding.relative(terms.dtype, count) * size
  slack = slack + rounding.absolute(terms.dtype, count)
  slack = jnp.where(size <= rounding.largest(terms.dtype), slack, jnp.nan)
  return jnp.sum(terms, axes), lax.stop_gradient(slack)
