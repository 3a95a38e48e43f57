"""What one step backwards gives: coefficients on the inputs, and what is left."""

import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.domains.long_sums import long_sum, terms_of
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pulled:
  """⟨Λ, y⟩ ≤ Σ_i ⟨Λ_i, x_i⟩ + constant, for every run in the region.

  Attributes:
    inputs: Λ_i, [B, S, ...] for each input.
    constant: with what rounding may add, where that is allowed for; [B, S].
  """

  inputs: tuple[Array, ...]
  constant: Array


def summed(terms: Array, lost: Array | None = None) -> Array:
  """Sums over all axes but the first two, with what rounding may add to them.

  Without allowances it is one product with ones: XLA's own sums take thrice as long
  on CPUs.

  Args:
    terms: [B, S, ...], each a product; of a sum of some that may cancel, what it
      rounds is in `lost`.
    lost: ≥ 0, of the same shape: what else each place may be off by. It carries no
      gradient. None allows for no rounding at all.

  Returns:
    [B, S]. NaN where a sum may have overflowed, if rounding is allowed for.
  """
  dtype, lead = terms.dtype, terms.shape[:2]
  count = math.prod(terms.shape[2:])
  if lost is None:
    return jnp.matmul(
        terms.reshape(lead + (count,)), jnp.ones((count,), dtype),
        precision=lax.Precision.HIGHEST,
    )
  # Of the sum, which has the allowances in it. The few roundings that made each of
  # its numbers are among the terms that `relative` adds.
  share = rounding.relative(dtype, terms_of(count))
  slack = share * jnp.abs(terms) + (1 + share) * lost
  terms = terms + lax.stop_gradient(slack)
  total = long_sum(terms.reshape(lead + (count,)))
  return total + rounding.absolute(dtype, 2 * count)
