"""Affine maps: dense layers, convolutions, scaling. One rule serves them all.

For y = A(x) + b and an element ⟨c, r, g⟩ the image is ⟨A(c) + b, |A|(r), A(g)⟩.
It is sound, and exact but for the uncorrelated part: A(c + r·β + Σ g_j·e_j) + b
= A(c) + b + Σ A(g_j)·e_j + A(r·β), and |A(r·β)| ≤ |A|(r) because |β| ≤ 1.

Rounding. What A(c), A(g) and a concrete run A(x) are off by is at most
κ·|A|(|c| + ε_H) + κ·|b|, with ε_H the total error and κ from
`domains.rounding`. So κ·(|c| + ε_H) is added to r *before* it goes through |A|:
the allowance costs no further product.

Product. Points and centers of all parts are stacked and go through A in one
contraction; so do all radii through |A|. Generator blocks are large batches by
themselves and are not copied to be stacked.
"""

import dataclasses
import functools
from typing import Callable

from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import rounding
from diffai_jax.domains.generators import Block, Dense, Diagonal, scale
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, radius
from diffai_jax.domains.product import Product, center, parts, rebuild
from diffai_jax.transformers.convolution import convolve, convolve_block
from diffai_jax.transformers.dispatch import require_array
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class _AffineMap:
  """x ↦ A(x) + b, described by what the rule above needs.

  Attributes:
    linear: A on [N, ...in] -> [N, ...out], for any N.
    absolute: |A|, likewise.
    block: A on a block of generators -> block.
    bias: b, broadcasts against [N, ...out].
    terms: how many products each output sums.
  """

  linear: Callable[[Array], Array]
  absolute: Callable[[Array], Array]
  block: Callable[[Block], Block]
  bias: Array
  terms: int


@functools.singledispatch
def dense(x, kernel: Array, bias: Array):
  """x @ kernel + bias; sound on elements by the rule of this file.

  A Diagonal block becomes `coefficients[:, :, None] * kernel`: row i of the
  kernel is what symbol i does to the outputs. No n×n array is built.

  Args:
    x: array [B, n], HybridZonotope or Product over [n].
    kernel: [n, k].
    bias: [k].

  Returns:
    The same kind, over [k].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "dense")
  return x @ kernel + bias


@dense.register(HybridZonotope)
@dense.register(Product)
def _(x, kernel: Array, bias: Array):
  magnitude = jnp.abs(kernel)

  def block(generators: Block) -> Dense:
    coefficients = generators.coefficients
    if isinstance(generators, Diagonal):
      return Dense(coefficients[:, :, None] * kernel)
    return Dense(coefficients @ kernel)

  return _apply(x, _AffineMap(
      linear=lambda v: v @ kernel,
      absolute=lambda v: v @ magnitude,
      block=block,
      bias=bias,
      terms=kernel.shape[0],
  ))


@functools.singledispatch
def conv(x, kernel: Array, bias: Array, *, stride: int = 1, padding: int = 0):
  """2-D cross-correlation plus bias; sound on elements by the file's rule.

  Zero padding adds variables that are exactly 0. A Diagonal block becomes
  Local, and stays so while its windows are small: see `convolution`.

  Args:
    x: array [B, H, W, C], HybridZonotope or Product over [H, W, C].
    kernel: [kh, kw, C, F].
    bias: [F].
    stride: of both directions.
    padding: rows and columns of zeros on each side.

  Returns:
    The same kind, over [H', W', F].

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "conv")
  return convolve(x, kernel, stride, padding) + bias


@conv.register(HybridZonotope)
@conv.register(Product)
def _(x, kernel: Array, bias: Array, *, stride: int = 1, padding: int = 0):
  magnitude = jnp.abs(kernel)

  return _apply(x, _AffineMap(
      linear=lambda v: convolve(v, kernel, stride, padding),
      absolute=lambda v: convolve(v, magnitude, stride, padding),
      block=lambda g: convolve_block(g, kernel, stride, padding),
      bias=bias,
      terms=kernel[..., 0].size,
  ))


@functools.singledispatch
def scale_shift(x, factor: Array, shift: Array):
  """factor · x + shift, elementwise; sound on elements by the file's rule.

  Blocks keep their structure: a Diagonal stays Diagonal.

  Args:
    x: array [B, ...], HybridZonotope or Product.
    factor: broadcasts against one example [...].
    shift: likewise.

  Raises:
    TypeError: for any other kind.
  """
  require_array(x, "scale_shift")
  return x * factor + shift


@scale_shift.register(HybridZonotope)
@scale_shift.register(Product)
def _(x, factor: Array, shift: Array):
  factor, shift = jnp.asarray(factor), jnp.asarray(shift)
  return _apply(x, _AffineMap(
      linear=lambda v: v * factor,
      absolute=lambda v: v * jnp.abs(factor),
      block=lambda generators: scale(generators, factor),
      bias=shift,
      terms=1,
  ))


def _apply(x: HybridZonotope | Product, affine: _AffineMap):
  leaves = parts(x)
  dtype = center(leaves[0]).dtype
  # Twice: the bounds' own arithmetic, and a concrete run's.
  relative = 2 * rounding.relative(dtype, affine.terms)
  tiny = float(jnp.finfo(dtype).tiny)

  centers = _stacked(affine.linear, [center(leaf) for leaf in leaves])
  elements = [leaf for leaf in leaves if isinstance(leaf, HybridZonotope)]
  widened = []
  for element in elements:
    total = radius(element)
    slack = lax.stop_gradient(
        relative * (jnp.abs(element.center) + total) + tiny
    )
    uncorrelated = element.uncorrelated
    widened.append(slack if uncorrelated is None else uncorrelated + slack)
  radii = iter(_stacked(affine.absolute, widened))
  bias_slack = lax.stop_gradient(relative * jnp.abs(affine.bias))
  bias_slack = bias_slack + rounding.absolute(dtype, affine.terms)

  results = []
  for leaf, image in zip(leaves, centers, strict=True):
    image = image + affine.bias
    if isinstance(leaf, HybridZonotope):
      image = HybridZonotope(
          center=image,
          uncorrelated=next(radii) + bias_slack,
          correlated={
              name: affine.block(block)
              for name, block in leaf.correlated.items()
          },
          relu=leaf.relu,
      )
    results.append(image)
  return rebuild(x, results)


def _stacked(
    function: Callable[[Array], Array], arrays: list[Array]
) -> list[Array]:
  """[function(a) for a in arrays], as one call on all of them stacked."""
  if len(arrays) < 2:
    return [function(a) for a in arrays]
  sizes = [a.shape[0] for a in arrays]
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  return jnp.split(function(jnp.concatenate(arrays)), ends)
