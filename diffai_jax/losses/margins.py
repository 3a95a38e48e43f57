"""Margins, what is proved from them, and the losses on them.

A margin here is an upper bound of z_k - z_y over what an output stands for,
where y is the label: the example is proved when every margin with k ≠ y is
negative. Comparisons are written so that NaN never counts as a proof.
"""

import functools
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.generators import Dense, Diagonal
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    lower,
    nearest_bounds,
    radius,
    upper,
)
from diffai_jax.kernels import precision
from diffai_jax.transformers.dispatch import require_array
from diffai_jax.types import Array


@functools.singledispatch
def margins(output, labels: Array) -> Array:
  """Upper bounds of z_k - z_y, computed in the abstract domain.

  Differences are affine, so what the logits share cancels: with generators g
  the bound is c_k - c_y + r_k + r_y + Σ_j |g_jk - g_jy|, widened by what its
  arithmetic can be off (at most the given relative error of the sum of all
  magnitudes, and a smallest normal number for each difference that may underflow).
  Sound because |Σ (g_jk - g_jy)·e_j| ≤ Σ |g_jk - g_jy| and the
  uncorrelated errors of k and y vary independently.

  Args:
    output: logits [B, K], or a HybridZonotope over [K].
    labels: int, [B].

  Returns:
    [B, K]; 0 at k = y.

  Raises:
    TypeError: for any other kind of output.
  """
  require_array(output, "margins")
  return output - _at_labels(output, labels)


@margins.register
def _(output: HybridZonotope, labels: Array) -> Array:
  output = precision.in_one_type(output)
  center, total = output.center, radius(output)
  reach = jnp.zeros_like(center)
  terms = 1
  if output.uncorrelated is not None:
    own = _at_labels(output.uncorrelated, labels)
    reach = reach + output.uncorrelated + own
  for block in output.correlated.values():
    if isinstance(block, Diagonal):
      # Symbols of k and y alone, each of which moves one of both.
      size = jnp.abs(block.coefficients)
      reach = reach + size + _at_labels(size, labels)
      terms += 2
      continue
    coefficients = generators.to_dense(block).coefficients
    own = _at_labels(coefficients, labels[:, None])
    reach = reach + generators.absolute_sum(Dense(coefficients - own))
    terms += coefficients.shape[1]
  magnitude = jnp.abs(center) + total
  magnitude = magnitude + _at_labels(magnitude, labels)
  slack = rounding.relative(center.dtype, terms) * magnitude
  slack = slack + rounding.absolute(center.dtype, terms)
  bound = center - _at_labels(center, labels) + reach
  bound = bound + lax.stop_gradient(slack)
  own = jnp.arange(center.shape[1]) == labels[:, None]
  return jnp.where(own, 0, bound)


def _at_labels(values: Array, labels: Array) -> Array:
  """values[..., labels] with the last axis kept, of size 1."""
  index = jnp.broadcast_to(labels, values.shape[:-1])[..., None]
  return jnp.take_along_axis(values, index, axis=-1)


def proved(margin: Array, labels: Array) -> Array:
  """Whether every other class is below the label: all(margin < 0), [B].

  Args:
    margin: [B, K], as `margins` returns it.
    labels: int, [B].
  """
  own = jnp.arange(margin.shape[1]) == labels[:, None]
  return jnp.all(own | (margin < 0), axis=1)


def worst_margin(margin: Array, labels: Array) -> Array:
  """The least proved distance to another class, min_k of z_y - z_k, [B].

  Positive exactly where `proved` holds; NaN where any bound is.
  """
  own = jnp.arange(margin.shape[1]) == labels[:, None]
  return jnp.min(jnp.where(own, jnp.inf, -margin), axis=1)


def cross_entropy(margin: Array) -> Array:
  """Cross entropy of margins, log Σ_k exp(margin_k), [B, K] -> [B].

  For logits it is the usual cross entropy, since margin_y = 0. For bounds it
  is at least the cross entropy of every point that they bound. By
  log-sum-exp, so huge margins keep a finite value and a useful gradient.
  """
  return logsumexp(margin, axis=1)


def worst_case_logits(output: HybridZonotope, labels: Array) -> Array:
  """Each logit's upper bound, but the lower bound at the label, [B, K].

  The loss of DiffAI v3 and Gowal et al. (2018). It bounds logits one by one
  and so loses what they share; `margins` does not. For comparison.
  """
  own = jnp.arange(output.center.shape[1]) == labels[:, None]
  return jnp.where(own, lower(output), upper(output))


def deep_loss(
    element: HybridZonotope, activation: Callable[[Array], Array] = jax.nn.relu
) -> Array:
  """How far variables' intervals overlap (paper, section 3.3), [B].

  L_lb,i = max { f(u_j - l_i) | l_j ≤ l_i }, L_ub,i = max { f(u_i - l_j) | u_i ≤ u_j },
  and the loss is the mean of all of them: 1/(2n) Σ_i (L_lb,i + L_ub,i). In
  O(n log n) time and O(n) memory, by sorting.

  Args:
    element: over any shape, flattened to n variables.
    activation: f; must be non-decreasing, so that the largest argument has the
      largest value.
  """
  batch = element.center.shape[0]
  low, high = (
      bound.reshape(batch, -1) for bound in nearest_bounds(element)
  )
  # With bounds negated and exchanged, L_ub is L_lb.
  both = _overlaps(low, high, activation) + _overlaps(-high, -low, activation)
  return both / 2


def _overlaps(
    low: Array, high: Array, activation: Callable[[Array], Array]
) -> Array:
  """The mean over i of max { f(u_j - l_i) | l_j ≤ l_i }, [B, n] -> [B].

  Sorted by l, the j with l_j ≤ l_i are those up to i, and all that tie with i.
  Ties are sorted by falling u, so the first of them has the largest u of its
  group: the running maximum of u at i is the one over all of its ties.
  """
  numbers = jnp.broadcast_to(jnp.arange(low.shape[1]), low.shape)
  _, falling, order = lax.sort(
      lax.stop_gradient((low, -high, numbers)), dimension=1, num_keys=2
  )
  running = lax.cummin(falling, axis=1)
  # Where the running maximum was reached: the gradient goes to that u alone.
  place = lax.cummax(jnp.where(falling <= running, numbers, 0), axis=1)
  largest = jnp.take_along_axis(order, place, axis=1)
  upper_ends = jnp.take_along_axis(high, largest, axis=1)
  lower_ends = jnp.take_along_axis(low, order, axis=1)
  return activation(upper_ends - lower_ends).mean(axis=1)
