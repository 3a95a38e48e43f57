"""Adding and concatenating blocks that share their noise symbols.

Two blocks of one name speak of the same symbols, in the same numbering, each in
the structure that its own path through the network gave it. Here they meet
again: the sum of a residual connection, the concatenation of a dense block.
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
    to_dense,
)
from diffai_jax.types import Array


def add(first: Block, second: Block) -> Block:
  """The block of x + y, over the same variables and the same symbols.

  Raises:
    ValueError: if the blocks have different numbers of symbols.
  """
  first, second = _alike([first, second])
  total = first.coefficients + second.coefficients
  return dataclasses.replace(first, coefficients=total)


def concatenate(
    blocks: list[Block | None], shapes: list[tuple[int, ...]], axis: int
) -> Block:
  """The block over variables that are concatenated.

  Images that are concatenated by channel keep their windows; other Diagonal
  blocks become Dense, m·n numbers.

  Args:
    blocks: one a part; None moves nothing there. Not all are None.
    shapes: [B, ...] of the parts' variables.
    axis: of the variables' shape, counted from the end (-1 is the last).

  Raises:
    ValueError: if the blocks have different numbers of symbols.
  """
  known = [block for block in blocks if block is not None]
  images = all(len(shape) == 4 for shape in shapes)
  if not images or axis != -1:
    known = [to_dense(block) for block in known]
  elif any(isinstance(block, Diagonal) for block in known):
    # Symbols of a Diagonal reach one channel; among others they are windows.
    known = [to_windows(block) for block in known]
  known = _alike(known)
  example, remaining = known[0], iter(known)
  pieces = [
      _zeros_like(example, shape) if block is None
      else next(remaining).coefficients
      for block, shape in zip(blocks, shapes, strict=True)
  ]
  return dataclasses.replace(
      example, coefficients=jnp.concatenate(pieces, axis=axis)
  )


def to_windows(block: Block) -> Block:
  """A Diagonal block over an image as windows of one pixel; others as they are.

  Args:
    block: a Diagonal over [H, W, C] becomes C·H·W·C numbers.
  """
  if not isinstance(block, Diagonal) or block.coefficients.ndim != 4:
    return block
  _, height, width, channels = block.coefficients.shape
  identity = jnp.eye(channels, dtype=bool)[:, None, None]
  cells = jnp.where(identity, block.coefficients[..., None, None, None], 0)
  return Local(cells, tuple(range(height)), tuple(range(width)),
               (height, width))


def _alike(blocks: list[Block]) -> list[Block]:
  """The blocks in one common structure, the cheapest that holds them all."""
  counts = {symbol_count(block) for block in blocks}
  if len(counts) > 1:
    raise ValueError(
        f"blocks of one name have {sorted(counts)} noise symbols; each layer"
        f" that creates symbols must give them a name of its own"
    )
  kinds = {type(block) for block in blocks}
  if kinds == {Diagonal} or kinds == {Dense}:
    return blocks
  blocks = [to_windows(block) for block in blocks]
  if all(isinstance(block, Local) for block in blocks):
    wide = _common_windows(blocks)
    if wide is not None:
      return wide
  return [to_dense(block) for block in blocks]


def _common_windows(blocks: list[Local]) -> list[Local] | None:
  """The blocks over windows that contain those of all; None if too large."""
  if len({block.coefficients.shape[1:4] for block in blocks}) > 1:
    return None
  height, width = blocks[0].shape
  rows, tall = _union([(b.rows, b.extent[0]) for b in blocks])
  columns, wide = _union([(b.columns, b.extent[1]) for b in blocks])
  if tall * wide >= height * width:
    return None
  common = []
  for block in blocks:
    coefficients = block.coefficients
    if (block.rows, block.columns, block.extent) != (
        rows, columns, (tall, wide)
    ):
      coefficients = windows.regrid(
          coefficients, (block.rows, block.columns), (rows, columns),
          (tall, wide),
      )
    common.append(dataclasses.replace(
        block, coefficients=coefficients, rows=rows, columns=columns
    ))
  return common


def _union(
    spans: list[tuple[windows.Places, int]]
) -> tuple[windows.Places, int]:
  """Where windows begin that contain those of all spans, and their extent."""
  firsts = tuple(map(min, zip(*(places for places, _ in spans))))
  lasts = zip(*([p + extent for p in places] for places, extent in spans))
  reach = [max(ends) - first for ends, first in zip(lasts, firsts)]
  return firsts, max(reach)


def _zeros_like(block: Block, shape: tuple[int, ...]) -> Array:
  """Coefficients 0 in the structure of `block`, for variables of `shape`."""
  before = block.coefficients.shape
  if isinstance(block, Dense):
    return jnp.zeros(before[:2] + shape[1:], block.coefficients.dtype)
  return jnp.zeros(before[:-1] + shape[-1:], block.coefficients.dtype)
