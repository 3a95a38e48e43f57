"""Blocks of correlated error coefficients (the paper's h_E, section 2).

A block holds the coefficients of one family of noise symbols e ∈ [-1, 1]^m
that one layer created. Blocks are frozen pytrees; what is done to them are the
functions of this file. `to_dense` is the definition that each of them is
tested against.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from diffai_jax.domains import windows
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Local:
  """Symbols on a grid, each of which moves one window of an image only.

  What a convolution makes of a Diagonal block: a pixel reaches no further
  than the kernel. Symbol (i, j, k) is number (i·J + j)·M + k; its window
  begins at row rows[i] and column columns[j]. Coefficients of variables that
  are not in the image are 0.

  Attributes:
    coefficients: [B, I, J, M, h, w, C].
    rows, columns: I and J places (static).
    shape: (H, W) of the image [H, W, C] (static).
    flat: whether the variables are those of the image in one row, [H·W·C]
      (static).
  """

  coefficients: Array
  rows: windows.Places = dataclasses.field(metadata={"static": True})
  columns: windows.Places = dataclasses.field(metadata={"static": True})
  shape: tuple[int, int] = dataclasses.field(metadata={"static": True})
  flat: bool = dataclasses.field(default=False, metadata={"static": True})

  @property
  def extent(self) -> tuple[int, int]:
    """(h, w) of the windows."""
    return self.coefficients.shape[4:6]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.shape + self.coefficients.shape[-1:]


Block = Dense | Diagonal | Local


def variable_shape(block: Block) -> tuple[int, ...]:
  """Shape [B, ...] of the variables that a block moves."""
  shape = block.coefficients.shape
  if isinstance(block, Dense):
    return shape[:1] + shape[2:]
  if isinstance(block, Local):
    image = block.image_shape
    return shape[:1] + ((math.prod(image),) if block.flat else image)
  return shape


def symbol_count(block: Block) -> int:
  """m, the number of noise symbols of a block."""
  shape = block.coefficients.shape
  last = {Dense: 2, Diagonal: len(shape), Local: 4}[type(block)]
  return math.prod(shape[1:last])


def absolute_sum(block: Block) -> Array:
  """Σ_j |g_j|, how far the block's symbols move each variable, [B, ...]."""
  magnitude = jnp.abs(block.coefficients)
  if isinstance(block, Dense):
    return magnitude.sum(axis=1)
  if isinstance(block, Local):
    sums = windows.accumulate(
        magnitude.sum(axis=3), block.rows, block.columns, block.shape
    )
    return sums.reshape(variable_shape(block))
  return magnitude


def terms_summed(block: Block) -> int:
  """How many numbers other than 0 `absolute_sum` adds up for one variable."""
  if isinstance(block, Dense):
    return symbol_count(block)
  if isinstance(block, Local):
    height, width = block.extent
    rows = windows.coverage(block.rows, height, block.shape[0])
    columns = windows.coverage(block.columns, width, block.shape[1])
    return rows * columns * block.coefficients.shape[3]
  return 1


def scale(block: Block, factor: Array) -> Block:
  """The block of factor · x; `factor` broadcasts against [B, ...]."""
  coefficients = block.coefficients * _as_seen(block, factor)
  return dataclasses.replace(block, coefficients=coefficients)


def weigh(block: Block, slope: Array) -> Block:
  """`scale`, but where the slope is 0 coefficients become 0 whatever they are.

  A variable that no longer depends on a symbol must not inherit its overflow:
  0 · ∞ would be NaN.
  """
  slope = _as_seen(block, slope)
  coefficients = jnp.where(slope == 0, 0, block.coefficients * slope)
  return dataclasses.replace(block, coefficients=coefficients)


def _as_seen(block: Block, values: Array) -> Array:
  """Values that broadcast against [B, ...], shaped to the coefficients."""
  shape = variable_shape(block)
  values = jnp.asarray(values)
  image = isinstance(block, Local) and not block.flat
  if not values.ndim or (image and values.size == values.shape[-1]):
    # One for all, or one a channel, which is the coefficients' last axis. (Of a
    # view of it XLA 0.10 makes a program for CPUs whose gradient reads outside of
    # its arrays: the process dies.)
    return values.reshape(-1)
  batch = values.shape[0] if values.ndim == len(shape) else 1
  values = jnp.broadcast_to(values, (batch,) + shape[1:])
  if isinstance(block, Dense):
    return values[:, None]
  if isinstance(block, Local):
    values = values.reshape((batch,) + block.image_shape)
    seen = windows.view(values, block.rows, block.columns, block.extent)
    return seen[:, :, :, None]
  return values


def reshape(block: Block, shape: tuple[int, ...]) -> Block:
  """The block over variables reshaped to `shape` (one example's).

  A Local block stays one if its image becomes flat, or an image again; in any
  other shape its windows have no meaning, and it becomes Dense.
  """
  shape = tuple(shape)
  if shape == variable_shape(block)[1:]:
    return block
  if isinstance(block, Local):
    if shape in (block.image_shape, (math.prod(block.image_shape),)):
      return dataclasses.replace(block, flat=len(shape) == 1)
    block = to_dense(block)
  coefficients = block.coefficients
  lead = coefficients.shape[: 2 if isinstance(block, Dense) else 1]
  return type(block)(coefficients.reshape(lead + shape))


def to_dense(block: Block) -> Dense:
  """The same symbols as a Dense block, m·n numbers.

  For a Diagonal block that is n² numbers: for tests, and where variables are
  mixed in ways that no other structure holds (see `merging`).
  """
  if isinstance(block, Dense):
    return block
  coefficients = block.coefficients
  batch = coefficients.shape[0]
  if isinstance(block, Local):
    images = windows.place(
        coefficients, block.rows, block.columns, block.shape
    )
    symbols = (batch, symbol_count(block))
    return Dense(images.reshape(symbols + variable_shape(block)[1:]))
  size = symbol_count(block)
  flat = coefficients.reshape(batch, size)
  dense = jnp.where(jnp.eye(size, dtype=bool), flat[:, :, None], 0)
  return Dense(dense.reshape((batch, size) + coefficients.shape[1:]))
