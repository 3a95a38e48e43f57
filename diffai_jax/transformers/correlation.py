"""Correlation of uncorrelated error (paper, section 3.1).

A correlation layer selects variables P and gives each of them a noise symbol:
h'_B,i = 0 and h'_E,i,m+t = h_B,i for i ∈ P with t = |P_<i|, and everything else
stays. Sound, and exact: β_i appears in variable i alone, so renaming it e_{m+t}
leaves the same set, γ(h') = γ(h). The selection carries no gradient, for it is
data; the coefficients do.
"""

import dataclasses
import math
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains.generators import Block, Diagonal
from diffai_jax.domains.hybrid_zonotope import (
    HybridZonotope,
    nearest_bounds,
    sound,
)
from diffai_jax.domains.identity import fresh_symbol, require_symbol
from diffai_jax.domains.product import Value, parts, rebuild
from diffai_jax.domains.single_symbols import select_variables
from diffai_jax.transformers.dispatch import (
    part_symbol,
    require_array,
    transformer,
)
from diffai_jax.types import Array, PRNGKey


@transformer
def correlate_all(x: Value, symbol: str | None = None) -> Value:
  """P = {i | 0 ≤ i < p}: every variable, as a Diagonal block of n numbers.

  Args:
    x: array (returned as it is), HybridZonotope or Product.
    symbol: name of the new symbols; None makes one that nothing else has. It
      must be new to the element: two families under one name would be taken
      for the same symbols.

  Returns:
    The same kind, the same shapes.

  Raises:
    ValueError: if the element has symbols of that name already.
    TypeError: for any other kind.
  """

  def correlate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    return _with_symbols(element, symbol, Diagonal(element.uncorrelated), None)

  return _on_elements(x, symbol, correlate)


@transformer
def correlate_fixed(x: Value, k: int, symbol: str | None = None) -> Value:
  """P = {⌊i·p/k⌋ | 0 ≤ i < k}, of the flattened variables.

  k symbols as a Dense block; as `correlate_all` if k ≥ p. Args, Returns and
  Raises as of `correlate_all`.
  """

  def correlate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    size = _size(element)
    indices = np.arange(k) * size // k
    batch = element.center.shape[0]
    return _correlate_at(
        element, jnp.broadcast_to(indices, (batch, k)), symbol
    )

  return _on_elements(x, symbol, correlate, k)


@transformer
def correlate_max(x: Value, k: int, symbol: str | None = None) -> Value:
  """P = the k variables with the largest upper bounds; ties to the lowest i.

  P = {i | UB(ι_H(h)_i) ∈ TOP_k(UB(ι_H(h)))}, for each example. k symbols as a
  Dense block, in the variables' order; as `correlate_all` if k ≥ p. Args,
  Returns and Raises as of `correlate_all`.
  """

  def correlate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    # To the nearest: rounding outwards would tell equal bounds apart.
    bounds = lax.stop_gradient(nearest_bounds(element)[1])
    _, indices = lax.top_k(bounds.reshape(bounds.shape[0], -1), k)
    return _correlate_at(element, jnp.sort(indices, axis=1), symbol)

  return _on_elements(x, symbol, correlate, k)


@transformer
def correlate_random(
    x: Value, k: int, key: PRNGKey, symbol: str | None = None
) -> Value:
  """P = k variables drawn without replacement, the same for all examples.

  k symbols as a Dense block, in the variables' order; as `correlate_all` if
  k ≥ p. Args (and a random key), Returns and Raises as of `correlate_all`.
  """

  def correlate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    drawn = jax.random.permutation(key, _size(element))[:k]
    shape = (element.center.shape[0], k)
    return _correlate_at(
        element, jnp.broadcast_to(jnp.sort(drawn), shape), symbol
    )

  return _on_elements(x, symbol, correlate, k)


@transformer
def correlate_max_pool(
    x: Value,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    symbol: str | None = None,
    *,
    by_center: bool = False,
) -> Value:
  """P = the variables that max-pooling of f picks: f(i) ∈ MAXPOOL(f).

  f is h_B, or h_C before the first layer. A window's first largest entry is
  picked; a variable that several windows pick is correlated once. The symbols
  are a Diagonal block with 0 for all others: n numbers, however many windows.

  Args:
    x, symbol: as of `correlate_all`.
    window, stride: a number for each axis of one example.
    by_center: whether f is h_C.

  Returns and Raises: as of `correlate_all`.
  """

  def correlate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    values = element.center if by_center else element.uncorrelated
    picked = _max_pooled(lax.stop_gradient(values), window, stride)
    own = element.uncorrelated
    return _with_symbols(
        element, symbol, Diagonal(jnp.where(picked, own, 0)),
        jnp.where(picked, 0, own),
    )

  return _on_elements(x, symbol, correlate)


def _max_pooled(
    values: Array, window: tuple[int, ...], stride: tuple[int, ...]
) -> Array:
  """Which entries of [B, ...] are the first largest of a window, bool."""
  numbers = jnp.arange(values[0].size, dtype=jnp.int32)
  numbers = numbers.reshape(values.shape[1:])
  numbers = jnp.broadcast_to(numbers, values.shape)

  def larger(one, other):
    (a, i), (b, j) = one, other
    first = (a > b) | ((a == b) & (i < j))
    return jnp.where(first, a, b), jnp.where(first, i, j)

  start = (jnp.asarray(-jnp.inf, values.dtype),
           jnp.asarray(jnp.iinfo(jnp.int32).max, jnp.int32))
  _, picked = lax.reduce_window(
      (values, numbers), start, larger,
      (1, *window), (1, *stride), "VALID",
  )
  batch = values.shape[0]
  rows = jnp.arange(batch)[:, None]
  mask = jnp.zeros((batch, values[0].size), bool)
  mask = mask.at[rows, picked.reshape(batch, -1)].set(True, mode="drop")
  return mask.reshape(values.shape)


def _correlate_at(
    element: HybridZonotope, indices: Array, symbol: str
) -> HybridZonotope:
  """Correlates the variables of these numbers, [B, k], all different."""
  own = jnp.asarray(element.uncorrelated)
  flat = own.reshape(own.shape[0], -1)
  rows = jnp.arange(flat.shape[0])[:, None]
  rest = flat.at[rows, indices].set(0).reshape(own.shape)
  return _with_symbols(element, symbol, select_variables(own, indices), rest)


def _with_symbols(
    element: HybridZonotope, symbol: str, block: Block,
    uncorrelated: Array | None,
) -> HybridZonotope:
  return dataclasses.replace(
      element,
      uncorrelated=uncorrelated,
      correlated=element.correlated | {symbol: block},
  )


def _on_elements(
    x: Value,
    symbol: str | None,
    correlate: Callable[[HybridZonotope, str], HybridZonotope],
    k: int | None = None,
) -> Value:
  """Correlates the elements in x that have uncorrelated error.

  With k, all variables of those that have no more than k, none if k is 0.
  """
  if symbol is None:
    symbol = fresh_symbol("correlated")
  results = []
  for number, part in enumerate(parts(x)):
    if not isinstance(part, HybridZonotope):
      require_array(part, "a correlation layer")
      results.append(part)
      continue
    own = part_symbol(symbol, number)
    require_new_symbol(part, own)
    if part.uncorrelated is not None and k != 0:
      # Coefficients may have any sign, so negative radii become NaN here.
      part = dataclasses.replace(
          part, uncorrelated=sound(part.uncorrelated)
      )
      every = k is not None and k >= _size(part)
      part = (correlate_all if every else correlate)(part, own)
    results.append(part)
  return rebuild(x, results)


def require_new_symbol(element: HybridZonotope, symbol: str) -> None:
  """Raises ValueError unless new symbols of an element may have that name."""
  require_symbol(symbol)
  if symbol in element.correlated:
    raise ValueError(
        f"the element already has noise symbols named {symbol!r}; give each"
        f" layer that creates symbols a name of its own"
    )


def _size(element: HybridZonotope) -> int:
  """p, how many variables one example has."""
  return math.prod(element.center.shape[1:])
