"""Upper bounds of what a spec asks about an output."""

import functools

from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.generators import Block, Diagonal
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, radius, sound
from diffai_jax.domains.product import center
from diffai_jax.kernels import precision
from diffai_jax.regions.specs import Spec
from diffai_jax.transformers.dispatch import require_array
from diffai_jax.types import Array

_einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)


def upper_bounds(output: Array | HybridZonotope, spec: Spec) -> Array:
  """Upper bounds of C·z + d over all z that an output stands for, [B, S].

  The rows are applied to each symbol first, so what outputs share cancels: with
  generators g the bound is C·c + d + |C|·r + Σ_j |C·g_j|. Sound, because
  |Σ_j (C·g_j)·e_j| ≤ Σ_j |C·g_j| and uncorrelated errors vary independently.
  Widened by what its own arithmetic can be off, as `losses.margins` is; NaN where
  an output's bound is.

  Args:
    output: [B, K], or an element over [K].
    spec: its rows C and offsets d.

  Raises:
    ValueError: if the spec is about outputs of another shape.
    TypeError: for any other kind of output.
  """
  if not isinstance(output, HybridZonotope):
    require_array(output, "upper_bounds")
    return spec.values(output)
  output = precision.in_one_type(output)
  spec.values(center(output))  # Checks their shapes.
  dtype = output.center.dtype
  rows, offsets = (jnp.asarray(a, dtype) for a in (spec.rows, spec.offsets))
  shape = output.center.shape[:1] + rows.shape[-2:]
  rows = jnp.broadcast_to(rows, shape)
  size = jnp.abs(rows)
  bound = _einsum("bsk,bk->bs", rows, output.center) + offsets
  if output.uncorrelated is not None:
    bound += _einsum("bsk,bk->bs", size, sound(output.uncorrelated))
  terms = 2 * shape[-1]
  for block in output.correlated.values():
    bound += _reach(block, rows, size)
    terms += shape[-1] + generators.symbol_count(block)
  magnitude = jnp.abs(output.center) + radius(output)
  total = _einsum("bsk,bk->bs", size, magnitude) + jnp.abs(offsets)
  slack = 2 * rounding.relative(dtype, terms) * total
  slack = slack + rounding.absolute(dtype, terms)
  # Where a partial sum may overflow, nothing is known.
  slack = jnp.where(total < rounding.largest(dtype), slack, jnp.nan)
  return bound + lax.stop_gradient(slack)


def _reach(block: Block, rows: Array, size: Array) -> Array:
  """Σ_j |C·g_j|, [B, S]."""
  if isinstance(block, Diagonal):
    return _einsum("bsk,bk->bs", size, jnp.abs(block.coefficients))
  coefficients = generators.to_dense(block).coefficients
  return jnp.abs(_einsum("bsk,bmk->bsm", rows, coefficients)).sum(axis=2)
