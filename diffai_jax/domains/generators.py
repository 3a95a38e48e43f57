"""Blocks of correlated error coefficients (the paper's h_E, section 2).

A block holds the coefficients of one family of noise symbols e ∈ [-1, 1]^m
that one layer created. Blocks are frozen pytrees; what is done to them are the
functions of this file. `to_dense` is the definition that each of them is
tested against.
"""

import dataclasses

import jax
import jax.numpy as jnp

from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dense:
  """m symbols that every variable may depend on.

  Attributes:
    coefficients: [B, m, ...]; entry (b, j, i) is how far symbol j moves
      variable i of example b.
  """

  coefficients: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diagonal:
  """One symbol a variable, that moves this variable only.

  The symbols are numbered in the order of the flattened variables, so n
  variables take n numbers, where the dense form takes n².

  Attributes:
    coefficients: [B, ...].
  """

  coefficients: Array


Block = Dense | Diagonal


def symbol_count(block: Block) -> int:
  """m, the number of noise symbols of a block."""
  if isinstance(block, Dense):
    return block.coefficients.shape[1]
  return _size(block.coefficients)


def absolute_sum(block: Block) -> Array:
  """Σ_j |g_j|, how far the block's symbols move each variable, [B, ...]."""
  magnitude = jnp.abs(block.coefficients)
  return magnitude.sum(axis=1) if isinstance(block, Dense) else magnitude


def terms_summed(block: Block) -> int:
  """How many numbers `absolute_sum` adds up for one variable."""
  return block.coefficients.shape[1] if isinstance(block, Dense) else 1


def keep_where(block: Block, kept: Array) -> Block:
  """The block with the coefficients of all other variables set to 0.

  Args:
    block: over variables of shape [B, ...].
    kept: bool, [B, ...].
  """
  if isinstance(block, Dense):
    kept = kept[:, None]
  return type(block)(jnp.where(kept, block.coefficients, 0))


def scale(block: Block, factor: Array) -> Block:
  """The block of factor · x; `factor` broadcasts against one example [...]."""
  return type(block)(block.coefficients * factor)


def reshape(block: Block, shape: tuple[int, ...]) -> Block:
  """The block over variables reshaped to `shape` (one example's)."""
  coefficients = block.coefficients
  lead = coefficients.shape[: 2 if isinstance(block, Dense) else 1]
  return type(block)(coefficients.reshape(lead + tuple(shape)))


def to_dense(block: Block) -> Dense:
  """The same symbols as a Dense block.

  Slow and large (n² numbers for a Diagonal block): for tests only.
  """
  if isinstance(block, Dense):
    return block
  batch, *shape = block.coefficients.shape
  size = _size(block.coefficients)
  flat = block.coefficients.reshape(batch, size)
  identity = jnp.eye(size, dtype=flat.dtype)
  return Dense((flat[:, :, None] * identity).reshape(batch, size, *shape))


def _size(coefficients: Array) -> int:
  size = 1
  for dim in coefficients.shape[1:]:
    size *= dim
  return size
