"""The rule of affine maps, one for all of them (`affine` has the maps).

For y = A(x) + b and an element ⟨c, r, g⟩ the image is ⟨A(c) + b, |A|(r), A(g)⟩.
It is sound, and exact but for the uncorrelated part: A(c + r·β + Σ g_j·e_j) + b
= A(c) + b + Σ A(g_j)·e_j + A(r·β), and |A(r·β)| ≤ |A|(r) because |β| ≤ 1.

Rounding. What A(c), A(g) and a concrete run A(x) are off by is at most
κ·|A|(|c| + ε_H) + κ·|b|, with ε_H the total error and κ from
`domains.rounding`. So κ·(|c| + ε_H) is added to r *before* it goes through |A|:
the allowance costs no further product. Smallest normal numbers are added for what
underflows: in κ·(|c| + ε_H), in each product and each sum of them.

Types. The element, the weights and the bias are brought to the widest of their
types, and κ is that of the narrowest, see `kernels.precision`.

Overflow. Where |A|(|c| + ε_H) + |b| may exceed the largest number, a partial sum of
a concrete run may overflow in one order and not in another, and come out as NaN:
the bound is NaN there. The result's radius r' is at least κ times that sum, so
r' < κ·(largest number)/4 excludes it.

Product. Points and centers of all parts are stacked and go through A in one
contraction; so do all radii through |A|. Generator blocks are large batches by
themselves and are not copied to be stacked.
"""

import dataclasses
from typing import Any, Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.generators import Block
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, radius
from diffai_jax.domains.product import Product, Value, center, parts, rebuild
from diffai_jax.kernels import precision
from diffai_jax.kernels.matrices import add_bias, apply_stacked
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class AffineMap:
  """x ↦ A(x) + b, described by what the rule above needs.

  Attributes:
    linear: A on [N, ...in] -> [N, ...out], for any N.
    absolute: |A|, likewise.
    block: A on a block of generators -> block.
    bias: b, broadcasts against [N, ...out].
    terms: how many products each output sums.
    narrowest: the type whose errors are allowed for.
  """

  linear: Callable[[Array], Array]
  absolute: Callable[[Array], Array]
  block: Callable[[Block], Block]
  bias: Array | float
  terms: int
  narrowest: Any


def of_one_type(x: Value, *weights):
  """What an affine map is made of, in one type.

  Args:
    x: an element or a Product.
    weights: arrays or numbers.

  Returns:
    (x, weights..., narrowest): all of x and the weights in the widest type that
    is given; and the narrowest. Kernels that a training step has products in
    bfloat16 with stay as they are, and are not allowed for.
  """
  leaves = jax.tree.leaves(x)
  kept = [
      hasattr(w, "dtype") and precision.rounds_products(w) for w in weights
  ]
  given = leaves + [w for w, keep in zip(weights, kept) if not keep]
  widest = precision.widest(*leaves, *given)
  weights = [
      w if keep else precision.strongly(w, widest)
      for w, keep in zip(weights, kept)
  ]
  x = jax.tree.map(lambda leaf: precision.strongly(leaf, widest), x)
  return x, *weights, precision.narrowest(*given) or widest


def apply_affine(
    x: HybridZonotope | Product, affine: AffineMap
) -> HybridZonotope | Product:
  """The image of an element, or of all parts of a Product, by this file's rule.
  """
  leaves = parts(x)
  dtype = affine.narrowest
  # Twice: the bounds' own arithmetic, and a concrete run's.
  relative = 2 * rounding.relative(dtype, affine.terms)
  tiny = rounding.tiny(dtype)
  largest = rounding.largest_allowance(dtype, affine.terms)

  centers = apply_stacked(affine.linear, [center(leaf) for leaf in leaves])
  elements = [leaf for leaf in leaves if isinstance(leaf, HybridZonotope)]
  widened = []
  for element in elements:
    total = radius(element)
    slack = lax.stop_gradient(
        relative * (jnp.abs(element.center) + total) + tiny
    )
    uncorrelated = element.uncorrelated
    widened.append(slack if uncorrelated is None else uncorrelated + slack)
  radii = iter(apply_stacked(affine.absolute, widened))
  bias_slack = lax.stop_gradient(relative * jnp.abs(affine.bias))

  results = []
  for leaf, image in zip(leaves, centers, strict=True):
    image = add_bias(image, affine.bias)
    if isinstance(leaf, HybridZonotope):
      blocks = leaf.correlated.values()
      sums = 1 + sum(map(generators.terms_summed, blocks))
      underflow = rounding.absolute(dtype, affine.terms * sums)
      radii_of_leaf = next(radii) + bias_slack + underflow
      if not precision.for_losses.value:
        finite = lax.stop_gradient(radii_of_leaf) < largest
        radii_of_leaf = jnp.where(finite, radii_of_leaf, jnp.nan)
      image = dataclasses.replace(
          leaf,
          center=image,
          uncorrelated=radii_of_leaf,
          correlated={
              name: affine.block(block)
              for name, block in leaf.correlated.items()
          },
      )
    results.append(image)
  return rebuild(x, results)
