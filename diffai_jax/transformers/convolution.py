"""2-D convolution and pooling of blocks of generators over images.

A convolution of generators is the same linear map applied to each symbol's
coefficients. The block's structure decides how: Dense blocks are a batch of
images; Diagonal and Local ones are multiplied, window by window, by the part of
the convolution's matrix that their windows meet.
"""

import math
from typing import Callable

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import windows
from diffai_jax.domains.generators import (
    Block,
    Dense,
    Diagonal,
    Local,
    to_dense,
)
from diffai_jax.domains.merging import to_windows
from diffai_jax.transformers.images import (
    convolve,
    convolve_transposed,
    multiply,
    pool,
)
from diffai_jax.types import Array


# More matrix products than this take long to compile.
_MOST_PRODUCTS = 256


def convolve_block(
    block: Block, kernel: Array, stride: int, padding: int
) -> Block:
  """The convolution of every symbol's coefficients.

  Args:
    block: over [H, W, C].
    kernel, stride, padding: as of `convolve`.

  Returns:
    A block of the same symbols over [H', W', F]: Local from a Diagonal or
    Local block, Dense once the windows would cost more than whole images.
  """
  if isinstance(block, Diagonal):
    _, height, width, _ = block.coefficients.shape
    axes = _axes(
        (range(height), range(width)), (1, 1), (height, width),
        kernel, stride, padding,
    )
    cells = block.coefficients[:, :, :, None, None, None]
    return _convolve_windows(cells, axes, kernel, _contract_diagonal)
  if isinstance(block, Local):
    axes = _axes(
        (block.rows, block.columns), block.extent, block.shape,
        kernel, stride, padding,
    )
    if not _windows_are_large(block.extent, axes, kernel):
      return _convolve_windows(block.coefficients, axes, kernel, _contract)
    block = to_dense(block)
  return _fold(block, lambda v: convolve(v, kernel, stride, padding))


def convolve_transposed_block(
    block: Block, kernel: Array, stride: int, padding: int
) -> Block:
  """The transposed convolution of every symbol's coefficients.

  A pixel's symbol moves one window of the kernel's size, so a Diagonal block
  becomes Local; Local ones become Dense.
  """
  if isinstance(block, Diagonal):
    _, height, width, _ = block.coefficients.shape
    sizes = [
        (length - 1) * stride + taps - 2 * padding
        for length, taps in zip((height, width), kernel.shape[:2])
    ]
    rows, columns = (
        tuple(i * stride - padding for i in range(length))
        for length in (height, width)
    )
    kept = windows.cut(rows, columns, kernel.shape[:2], sizes)
    # Symbol (i, j, k) is channel k of its pixel: kernel[:, :, k] is its window.
    by_channel = jnp.transpose(kernel, (2, 0, 1, 3))
    cells = block.coefficients[..., None, None, None] * by_channel
    return Local(jnp.where(kept, cells, 0), rows, columns, tuple(sizes))
  return _fold(
      to_dense(block), lambda v: convolve_transposed(v, kernel, stride, padding)
  )


def multiply_windows(block: Local, kernel: Array) -> Dense:
  """A dense layer on every symbol's coefficients.

  A window's entries meet only the rows of the kernel that belong to them. Windows
  at the same place, as of all pixels between two strides, share these rows: one
  matrix product for each place.

  Args:
    block: flat, over n = H·W·C variables.
    kernel: [n, k].
  """
  rows, columns = _runs(block.rows), _runs(block.columns)
  small = math.prod(block.extent) < math.prod(block.shape)
  if not small or len(rows) * len(columns) > _MOST_PRODUCTS:
    return Dense(multiply(to_dense(block).coefficients, kernel))
  # One window [h, w, C·k] of the kernel for each pair of places.
  seen = windows.view(
      kernel.reshape((1,) + block.shape + (-1,)),
      [block.rows[run.start] for run in rows],
      [block.columns[run.start] for run in columns],
      block.extent,
  )[0]
  outputs = kernel.shape[1]
  lines = []
  for i, row in enumerate(rows):
    cells = []
    for j, column in enumerate(columns):
      some = block.coefficients[:, row, column]
      flat = some.reshape(math.prod(some.shape[:4]), -1)
      product = multiply(flat, seen[i, j].reshape(flat.shape[1], outputs))
      cells.append(product.reshape(some.shape[:4] + (outputs,)))
    lines.append(jnp.concatenate(cells, axis=2))
  out = jnp.concatenate(lines, axis=1)
  return Dense(out.reshape(out.shape[0], -1, outputs))


def _runs(places: windows.Places) -> list[slice]:
  """Where equal places follow each other."""
  changes = [i for i in range(1, len(places)) if places[i] != places[i - 1]]
  return [slice(*ends) for ends in zip([0, *changes], [*changes, len(places)])]


def pool_block(
    block: Block, weights: np.ndarray, stride: int, padding: int
) -> Block:
  """`pool` of every symbol's coefficients; windows stay windows.

  Whatever the weights, the windows come to lie at the same places.
  """
  block = to_windows(block)
  if isinstance(block, Dense):
    return _fold(block, lambda v: pool(v, weights, stride, padding))
  axes = _axes(
      (block.rows, block.columns), block.extent, block.shape,
      weights, stride, padding,
  )
  kernel = jnp.asarray(weights, block.coefficients.dtype)
  return _convolve_windows(block.coefficients, axes, kernel, _contract_spatial)


def _fold(block: Dense, function: Callable[[Array], Array]) -> Dense:
  """A linear map of images on each symbol's image."""
  batch = block.coefficients.shape[0]
  folded = block.coefficients.reshape((-1,) + block.coefficients.shape[2:])
  out = function(folded)
  return Dense(out.reshape((batch, -1) + out.shape[1:]))


class _Axis:
  """How windows move along one axis under a convolution.

  A window at place o with h entries meets outputs q with
  0 ≤ o + a + padding - q·stride < k for some a < h. They begin at
  first = ⌈(o + padding - k + 1) / stride⌉; entry a and output first + q meet by
  kernel row a + shift - q·stride, with shift = o + padding - first·stride,
  which takes at most `stride` different values.

  Attributes:
    firsts: where each output window begins, [I].
    shifts: of each window, [I].
    extent: length of the output windows, the same for all.
    size: length of the output image.
  """

  def __init__(self, places, extent, size, kernel, stride, padding):
    starts = np.asarray(places) + padding
    self.size = (size + 2 * padding - kernel) // stride + 1
    self.firsts = -((kernel - 1 - starts) // stride)
    lasts = (starts + extent - 1) // stride
    self.shifts = starts - self.firsts * stride
    # At least 1: a window may reach no output, as between strides.
    self.extent = max(1, int((lasts - self.firsts).max()) + 1)
    self._offsets = np.arange(extent)[:, None] - stride * np.arange(self.extent)
    self._kernel = kernel

  def kernel_rows(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel row of entry a and output q, and if there is one, [h, h']."""
    rows = self._offsets + shift
    return rows.clip(0, self._kernel - 1), (rows >= 0) & (rows < self._kernel)

  def places(self) -> windows.Places:
    return tuple(int(first) for first in self.firsts)


def _axes(places, extents, sizes, kernel, stride, padding) -> list[_Axis]:
  """The axis of the rows and that of the columns."""
  return [
      _Axis(place, extent, size, taps, stride, padding)
      for place, extent, size, taps in zip(
          places, extents, sizes, kernel.shape[:2], strict=True
      )
  ]


def _convolve_windows(
    coefficients: Array, axes: list[_Axis], kernel: Array, contract: Callable
) -> Local:
  """Convolution of windows [B, I, J, M, h, w, C].

  Windows whose places leave the same remainder share one matrix: as many
  matrix products as the stride has pairs of remainders. `contract` multiplies
  such windows by their matrix.
  """
  by_row, by_column = axes
  lines = []
  for row_shift in np.unique(by_row.shifts):
    cells = []
    some = coefficients[:, by_row.shifts == row_shift]
    for column_shift in np.unique(by_column.shifts):
      matrix = _matrix(
          kernel,
          by_row.kernel_rows(row_shift),
          by_column.kernel_rows(column_shift),
      )
      few = some[:, :, by_column.shifts == column_shift]
      cells.append(contract(few, matrix))
    lines.append(_restore(cells, by_column.shifts, axis=2))
  out = _restore(lines, by_row.shifts, axis=1)
  rows, columns = by_row.places(), by_column.places()
  sizes = (by_row.size, by_column.size)
  extent = (by_row.extent, by_column.extent)
  kept = windows.cut(rows, columns, extent, sizes)
  return Local(jnp.where(kept, out, 0), rows, columns, sizes)


def _matrix(kernel: Array, by_row, by_column) -> Array:
  """The part of the convolution's matrix between windows.

  [h, w, C, h', w', F] for a kernel [kh, kw, C, F]; [h, w, h', w'] for [kh, kw].
  """
  (rows, row_valid), (columns, column_valid) = by_row, by_column
  entries = kernel[rows[:, :, None, None], columns]  # [h, h', w, w', ...]
  valid = row_valid[:, :, None, None] & column_valid
  valid = valid.reshape(valid.shape + (1,) * (kernel.ndim - 2))
  entries = jnp.where(valid, entries, 0)
  if kernel.ndim == 2:
    return jnp.transpose(entries, (0, 2, 1, 3))
  return jnp.transpose(entries, (0, 2, 4, 1, 3, 5))


def _contract(coefficients: Array, matrix: Array) -> Array:
  """Windows [B, I, J, M, h, w, C] times [h, w, C, h', w', F]."""
  lead, out = coefficients.shape[:4], matrix.shape[3:]
  flat = coefficients.reshape(math.prod(lead), -1)
  product = multiply(flat, matrix.reshape(flat.shape[1], -1))
  return product.reshape(lead + out)


def _contract_diagonal(coefficients: Array, matrix: Array) -> Array:
  """Single pixels [B, I, J, 1, 1, 1, C] whose symbol k moves channel k alone."""
  pixels = coefficients[:, :, :, 0, 0, 0]
  return pixels[..., None, None, None] * matrix[0, 0]


def _contract_spatial(coefficients: Array, matrix: Array) -> Array:
  """Windows [B, I, J, M, h, w, C] times [h, w, h', w'], channel by channel."""
  # Max-pooling selects by such sums and takes what they select for exact.
  return jnp.einsum(
      "bijmhwc,hwpq->bijmpqc", coefficients, matrix,
      precision=lax.Precision.HIGHEST,
  )


def _restore(groups: list[Array], shifts: np.ndarray, axis: int) -> Array:
  """Puts groups, one a value of `shifts`, back into the order of `shifts`."""
  if len(groups) == 1:
    return groups[0]
  order = np.argsort(np.argsort(shifts, kind="stable"), kind="stable")
  return jnp.take(jnp.concatenate(groups, axis=axis), order, axis=axis)


def _windows_are_large(
    extent: tuple[int, int], axes: list[_Axis], kernel: Array
) -> bool:
  """Whether convolving windows takes more products than whole images."""
  small = math.prod(extent) * math.prod(axis.extent for axis in axes)
  whole = math.prod(kernel.shape[:2]) * math.prod(axis.size for axis in axes)
  return small >= whole
