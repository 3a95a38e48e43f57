"""Decorrelation (paper, section 3.2), and the change between both domains.

A decorrelation layer removes symbols P and adds |g_j| of each of them to the
uncorrelated error: h'_B,i = h_B,i + Σ_{j∈P} |h_E,i,j|, the others keep their
order. Sound: |Σ_{j∈P} g_ij·e_j| ≤ Σ_{j∈P} |g_ij|, which β_i now covers, for every
value of the symbols that are kept; the sum is rounded up. What is kept gets a
new name, so it counts as independent of the symbols on other paths: sound,
since that only adds points.
"""

import dataclasses
import functools
import operator
from typing import Callable

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.domains import generators, rounding
from diffai_jax.domains.hybrid_zonotope import HybridZonotope, radius, sound
from diffai_jax.domains.identity import fresh_symbol
from diffai_jax.domains.product import Value, parts, rebuild
from diffai_jax.domains.single_symbols import (
    keep_symbols,
    symbol_sizes,
    take_symbols,
)
from diffai_jax.kernels import precision
from diffai_jax.transformers.correlation import (
    correlate_all,
    require_new_symbol,
)
from diffai_jax.transformers.dispatch import (
    part_symbol,
    require_array,
    transformer,
)
from diffai_jax.types import Array, PRNGKey


@transformer
def decorrelate_all(x: Value) -> Value:
  """h'_B,i = h_B,i + Σ_j |h_E,i,j|: no symbols are left.

  Args:
    x: array (returned as it is), HybridZonotope or Product.

  Returns:
    The same kind, the same shapes.

  Raises:
    TypeError: for any other kind.
  """
  return _on_elements(x, 0, None, None)


@transformer
def decorrelate_min(x: Value, k: int, symbol: str | None = None) -> Value:
  """Keeps the k symbols with the largest Σ_i |h_E,i,j|, for each example.

  P are the m - k smallest of { Σ_i |h_E,i,j| | j < m }; of equal ones the later
  go. Symbols are numbered family by family, in the order of the names. With
  k ≥ m nothing changes; k = 0 is `decorrelate_all`. The selection carries no
  gradient.

  Args:
    x: as of `decorrelate_all`.
    k: how many symbols stay.
    symbol: name of the kept ones, k as a Dense block; None makes one that
      nothing else has. It must be new to the element: under a known name they
      would be taken for other symbols.

  Returns: as of `decorrelate_all`.

  Raises:
    ValueError: if the element has symbols of that name already.
    TypeError: as of `decorrelate_all`.
  """

  def decorrelate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    blocks = _by_name(element)
    sizes = jnp.concatenate([symbol_sizes(block) for block in blocks], axis=1)
    _, kept = lax.top_k(lax.stop_gradient(sizes), k)
    return _keep(element, jnp.sort(kept, axis=1), symbol)

  return _on_elements(x, k, symbol, decorrelate)


@transformer
def decorrelate_random(
    x: Value, k: int, key: PRNGKey, symbol: str | None = None
) -> Value:
  """Keeps k symbols drawn without replacement, the same for all examples.

  Args (and a random key), Returns and Raises as of `decorrelate_min`.
  """

  def decorrelate(element: HybridZonotope, symbol: str) -> HybridZonotope:
    drawn = jax.random.permutation(key, _count(element))[:k]
    shape = (element.center.shape[0], k)
    return _keep(element, jnp.broadcast_to(jnp.sort(drawn), shape), symbol)

  return _on_elements(x, k, symbol, decorrelate)


@transformer
def to_zonotope(
    x: Value, symbol: str | None = None, relu: str | None = None
) -> Value:
  """A pure zonotope from here on: all error, now and later, has symbols.

  Exact: what is uncorrelated gets symbols of its own (`correlate_all`).

  Args:
    x: as of `decorrelate_all`.
    symbol: name of the new symbols; None makes one that nothing else has.
    relu: the ReLU rule from here on; None leaves it.

  Returns and Raises: as of `correlate_all`.
  """
  return _with_rules(correlate_all(x, symbol), relu, zonotope=True)


@transformer
def to_hybrid(x: Value, relu: str | None = None) -> Value:
  """A hybrid zonotope from here on: fresh error stays uncorrelated. Exact.

  Args:
    x: as of `decorrelate_all`.
    relu: the ReLU rule from here on; None leaves it.

  Returns and Raises: as of `decorrelate_all`.
  """
  return _with_rules(x, relu, zonotope=False)


def _with_rules(x: Value, relu: str | None, zonotope: bool) -> Value:
  return rebuild(x, [
      dataclasses.replace(part, relu=relu or part.relu, zonotope=zonotope)
      if isinstance(part, HybridZonotope) else part
      for part in parts(x)
  ])


def _without_symbols(element: HybridZonotope) -> HybridZonotope:
  return dataclasses.replace(
      element, uncorrelated=radius(element), correlated={}
  )


def _by_name(element: HybridZonotope) -> list[generators.Block]:
  """The blocks in the order of their names, the same traced or not."""
  return [element.correlated[name] for name in sorted(element.correlated)]


def _count(element: HybridZonotope) -> int:
  return sum(map(generators.symbol_count, element.correlated.values()))


def _keep(
    element: HybridZonotope, kept: Array, symbol: str
) -> HybridZonotope:
  """Keeps the symbols of these numbers, [B, k], and drops the others."""
  require_new_symbol(element, symbol)
  element = precision.in_one_type(element)
  dtype = element.center.dtype
  batch = kept.shape[0]
  rows = jnp.arange(batch)[:, None]
  stays = jnp.zeros((batch, _count(element)), bool).at[rows, kept].set(True)
  first, terms, taken, dropped = 0, 1, [], []
  for block in _by_name(element):
    count = generators.symbol_count(block)
    own = stays[:, first : first + count]
    dropped.append(generators.absolute_sum(keep_symbols(block, ~own)))
    taken.append(take_symbols(block, kept - first).coefficients)
    terms += generators.terms_summed(block)
    first += count
  total = functools.reduce(operator.add, dropped)
  if element.uncorrelated is not None:
    total = total + sound(element.uncorrelated)
  slack = rounding.relative(dtype, terms) * total
  # What of this underflows; the sum of zeros is exact.
  slack = slack + jnp.where(total > 0, rounding.tiny(dtype), 0)
  slack = lax.stop_gradient(slack)
  block = generators.Dense(functools.reduce(operator.add, taken))
  return dataclasses.replace(
      element, uncorrelated=total + slack, correlated={symbol: block}
  )


def _on_elements(
    x: Value,
    k: int,
    symbol: str | None,
    decorrelate: Callable[[HybridZonotope, str], HybridZonotope] | None,
) -> Value:
  """Leaves at most k symbols to the elements in x that have more."""
  if symbol is None:
    symbol = fresh_symbol("kept")
  results = []
  for number, part in enumerate(parts(x)):
    if not isinstance(part, HybridZonotope):
      require_array(part, "a decorrelation layer")
    elif _count(part) > k:
      own = part_symbol(symbol, number)
      part = decorrelate(part, own) if k else _without_symbols(part)
    results.append(part)
  return rebuild(x, results)
