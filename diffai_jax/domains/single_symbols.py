"""What is done to single noise symbols of a block: measure, drop, pick.

Each function acts on the symbols in their numbering, j = 0 … m-1, and is
tested against the same operation on `to_dense`.
"""

import dataclasses

import jax.numpy as jnp

from diffai_jax.domains import windows
from diffai_jax.domains.generators import (
    Block,
    Dense,
    Diagonal,
    Local,
    symbol_count,
    variable_shape,
)
from diffai_jax.types import Array


def symbol_sizes(block: Block) -> Array:
  """Σ_i |g_ji|, how much each symbol moves all variables together, [B, m]."""
  magnitude = jnp.abs(block.coefficients)
  batch = magnitude.shape[0]
  return magnitude.reshape(batch, symbol_count(block), -1).sum(axis=2)


def keep_symbols(block: Block, kept: Array) -> Block:
  """The block with the coefficients of all other symbols set to 0.

  Args:
    block: with m symbols.
    kept: bool, [B, m].
  """
  coefficients = block.coefficients
  lead = {Dense: 2, Diagonal: coefficients.ndim, Local: 4}[type(block)]
  shape = coefficients.shape[:lead] + (1,) * (coefficients.ndim - lead)
  coefficients = jnp.where(kept.reshape(shape), coefficients, 0)
  return dataclasses.replace(block, coefficients=coefficients)


def take_symbols(block: Block, indices: Array) -> Dense:
  """The k symbols with these numbers, as a Dense block: k·n numbers.

  Args:
    block: with m symbols.
    indices: int, [B, k]; a number that is not within [0, m) gives a symbol
      that moves nothing.
  """
  batch, size = indices.shape[0], symbol_count(block)
  inside = (indices >= 0) & (indices < size)
  places = jnp.clip(indices, min=0, max=size - 1)
  if isinstance(block, Diagonal):
    flat = block.coefficients.reshape(batch, size)
    taken = jnp.take_along_axis(flat, places, axis=1)
    return _unit_symbols(jnp.where(inside, taken, 0), places, block)
  flat = block.coefficients.reshape(batch, size, -1)
  taken = jnp.take_along_axis(flat, places[:, :, None], axis=1)
  taken = jnp.where(inside[:, :, None], taken, 0)
  if isinstance(block, Local):
    taken = windows.place_some(
        taken.reshape((batch, -1) + block.coefficients.shape[4:]),
        *_grid_places(block, places),
        block.shape,
    )
  return Dense(taken.reshape(indices.shape + variable_shape(block)[1:]))


def select_variables(values: Array, indices: Array) -> Dense:
  """k symbols, each of which moves one variable by its entry of `values`.

  Args:
    values: [B, ...].
    indices: int, [B, k]; numbers of flattened variables, all different.
  """
  flat = values.reshape(values.shape[0], -1)
  taken = jnp.take_along_axis(flat, indices, axis=1)
  return _unit_symbols(taken, indices, Diagonal(values))


def _unit_symbols(amounts: Array, variables: Array, block: Diagonal) -> Dense:
  """Symbol t moves variable variables[t] by amounts[t] ([B, k] each)."""
  numbers = jnp.arange(symbol_count(block))
  hit = variables[:, :, None] == numbers
  coefficients = jnp.where(hit, amounts[:, :, None], 0)
  shape = amounts.shape + variable_shape(block)[1:]
  return Dense(coefficients.reshape(shape))


def _grid_places(block: Local, numbers: Array) -> tuple[Array, Array]:
  """Row and column where the windows of these symbols begin, [B, k] each."""
  columns, members = block.coefficients.shape[2:4]
  cell = numbers // members
  rows = jnp.asarray(block.rows)[cell // columns]
  return rows, jnp.asarray(block.columns)[cell % columns]
