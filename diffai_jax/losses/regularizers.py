"""Regularisers of fast interval training (Shi et al. 2021).

Z. Shi et al., "Fast certified robust training with short warmup", NeurIPS 2021.
They look at the bounds before each ReLU while ε grows: these should neither
widen from layer to layer nor leave all neurons on one side of 0.

Means are taken over the whole batch and all neurons of a layer, by the function
`mean`, which a training step on several devices makes a mean over all of them.
"""

from collections.abc import Sequence
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    nearest_bounds,
    radius,
)
from diffai_jax.types import Array

Mean = Callable[[Array], Array]  # [B, ...] -> scalar.
TOLERANCE = 0.5  # The paper's τ.
_LEAST = 1e-12  # Of denominators.


def tightness(
    first: HybridZonotope,
    inputs: Sequence[HybridZonotope],
    tolerance: float = TOLERANCE,
    mean: Mean = jnp.mean,
) -> Array:
  """1/(τ·m) Σ_i relu(τ - E[Δ_0]/E[Δ_i]), a scalar.

  Args:
    first: the network's input, whose widths are Δ_0.
    inputs: of each of the m ReLU layers, whose widths are Δ_i.
    tolerance: τ; bounds that are less than 1/τ as wide as Δ_0 cost nothing.
    mean: over batch and variables.
  """
  start = mean(radius(first))
  ratios = [
      start / jnp.maximum(mean(radius(element)), _LEAST) for element in inputs
  ]
  return _shortfall(ratios, tolerance)


def relu_balance(
    inputs: Sequence[HybridZonotope],
    tolerance: float = TOLERANCE,
    mean: Mean = jnp.mean,
) -> Array:
  """1/(τ·m) Σ_i relu(τ - min(α_i, 1/α_i)) + relu(τ - min(β_i, 1/β_i)).

  α_i is the sum of centers of the neurons that are surely active (l > 0) over
  minus that of the surely inactive ones (u < 0), β_i the same of the centers'
  squared distances from their mean. A layer that has none on one side
  contributes nothing: it has no ratio.

  Args:
    inputs: of each of the m ReLU layers.
    tolerance: τ.
    mean: over batch and variables.

  Returns:
    A scalar.
  """
  ratios = []
  for element in inputs:
    low, high = nearest_bounds(element)
    center = element.center
    sides = low > 0, high < 0
    for measure in (_sum_of_sizes, _sum_of_squares):
      above, below = (measure(center, side, mean) for side in sides)
      known = (above > _LEAST) & (below > _LEAST)
      above = jnp.where(known, above, 1)
      below = jnp.where(known, below, 1)
      ratios.append(jnp.minimum(above / below, below / above))
  return 2 * _shortfall(ratios, tolerance)


def _sum_of_sizes(center: Array, side: Array, mean: Mean) -> Array:
  """The sum of |c| on one side, over the number of all neurons."""
  return mean(jnp.where(side, jnp.abs(center), 0))


def _sum_of_squares(center: Array, side: Array, mean: Mean) -> Array:
  """The sum of (c - E[c])² on one side, over the number of all neurons.

  Written as E[c²] - 2·E[c]·m + E[1]·m² on that side, with the mean m of all:
  means of means would not have the right gradient if `mean` is over devices.
  Centers are moved so that m is 0, but for its gradient.
  """
  moved = center - lax.stop_gradient(mean(center))
  middle = mean(moved)
  square, first, share = (
      mean(jnp.where(side, values, 0))
      for values in (jnp.square(moved), moved, jnp.ones_like(moved))
  )
  return square - 2 * first * middle + share * jnp.square(middle)


def _shortfall(ratios: Sequence[Array], tolerance: float) -> Array:
  """The mean of relu(τ - ratio)/τ; 0 if there are none."""
  if not ratios:
    return jnp.zeros(())
  return jnp.mean(jax.nn.relu(tolerance - jnp.stack(ratios))) / tolerance
