"""Correlation of uncorrelated error (paper, section 3.1)."""

import dataclasses
import functools

from diffai_jax.domains.generators import Diagonal
from diffai_jax.domains.hybrid_zonotope import HybridZonotope
from diffai_jax.transformers.dispatch import register_parts, require_array


@functools.singledispatch
def correlate_all(x, symbol: str):
  """Gives every variable's uncorrelated error a noise symbol of its own.

  The paper's correlation layer with P = {i | 0 ≤ i < p}: h'_B = 0 and
  h'_{E,i,m+i} = h_{B,i}. Sound, and exact, because β_i appears in variable i
  alone: renaming it e_{m+i} gives the same set, γ(h') = γ(h). The new
  coefficients are a Diagonal block, n numbers and not n².

  Args:
    x: array (returned as it is), HybridZonotope or Product.
    symbol: name of the new symbols. It must be new to the element: two
      families under one name would be taken for the same symbols.

  Returns:
    The same kind, the same shapes.

  Raises:
    ValueError: if the element has symbols of that name already.
    TypeError: for any other kind.
  """
  require_array(x, "correlate_all")
  return x


register_parts(correlate_all)


@correlate_all.register
def _(x: HybridZonotope, symbol: str) -> HybridZonotope:
  if symbol in x.correlated:
    raise ValueError(
        f"the element already has noise symbols named {symbol!r}; give each"
        f" layer that creates symbols a name of its own"
    )
  if x.uncorrelated is None:
    return x
  return dataclasses.replace(
      x,
      uncorrelated=None,
      correlated=x.correlated | {symbol: Diagonal(x.uncorrelated)},
  )
