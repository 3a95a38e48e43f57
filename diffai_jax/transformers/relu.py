"""ReLU on hybrid zonotopes (Mirman et al. 2018, section 3.2; paper, section 2)."""

import functools
from typing import Callable

import jax
import jax.numpy as jnp

from diffai_jax.domains import generators
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, lower, upper
from diffai_jax.transformers.dispatch import register_parts, require_array
from diffai_jax.types import Array


@functools.singledispatch
def relu(x):
  """max(x, 0), elementwise.

  On an element, by the rule that `element.relu` names. For upper bound u ≤ 0
  a variable is 0, for lower bound l ≥ 0 it is unchanged: both exact, whatever
  the rule. The rules differ for l < 0 < u, and each says why it is sound.

  Args:
    x: array [B, ...], HybridZonotope or Product.

  Returns:
    The same kind, the same shapes.

  Raises:
    ValueError: if an element names an unknown rule.
    TypeError: for any other kind.
  """
  require_array(x, "relu")
  return jax.nn.relu(x)


register_parts(relu)


@relu.register
def _(x: HybridZonotope) -> HybridZonotope:
  if x.relu not in RULES:
    known = ", ".join(RULES)
    raise ValueError(f"unknown ReLU rule {x.relu!r}; known: {known}")
  return RULES[x.relu](x)


def _box(x: HybridZonotope) -> HybridZonotope:
  """Rule `box`: a variable with l < 0 < u becomes the interval [0, u].

  Sound because relu maps [l, u] onto [0, u], which is u/2 ± u/2 (halving is
  exact in binary), and the new uncorrelated error covers it for every value
  of the symbols that the variable no longer depends on. Without generators it
  is exact interval arithmetic.

  `where` selects and never computes with what it leaves out: NaN bounds take
  the middle branch and stay NaN.
  """
  low, high = lower(x), upper(x)
  active, dead = low >= 0, high <= 0

  def select(kept: Array, crossing: Array) -> Array:
    return jnp.where(active, kept, jnp.where(dead, 0, crossing))

  if x.uncorrelated is None:
    uncorrelated = jnp.zeros_like(x.center)
  else:
    uncorrelated = x.uncorrelated
  return HybridZonotope(
      center=select(x.center, high / 2),
      uncorrelated=select(uncorrelated, high / 2),
      correlated={
          name: generators.keep_where(block, active)
          for name, block in x.correlated.items()
      },
      relu=x.relu,
  )


RULES: dict[str, Callable[[HybridZonotope], HybridZonotope]] = {"box": _box}
