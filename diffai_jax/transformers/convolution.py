"""2-D convolution, of images and of blocks of generators over images.

A convolution of generators is the same linear map applied to each symbol's
coefficients. The block's structure decides how: Dense blocks are a batch of
images; Diagonal and Local ones are multiplied, window by window, by the part of
the convolution's matrix that their windows meet.
"""

import math

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
from diffai_jax.types import Array


def convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """Cross-correlation with zero padding, NHWC and HWIO.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, F].
    stride: of both directions.
    padding: rows and columns of zeros on each side.

  Returns:
    [N, H', W', F].
  """
  return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(stride, stride),
      padding=[(padding, padding)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


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
    place = tuple(range(height)), tuple(range(width))
    return _convolve_windows(
        block.coefficients[..., None, None, :],
        *place, (height, width), kernel, stride, padding, diagonal=True,
    )
  if isinstance(block, Local):
    if not _windows_are_large(block, kernel, stride, padding):
      return _convolve_windows(
          block.coefficients, block.rows, block.columns, block.shape,
          kernel, stride, padding,
      )
    block = to_dense(block)
  batch = block.coefficients.shape[0]
  folded = block.coefficients.reshape((-1,) + block.coefficients.shape[2:])
  out = convolve(folded, kernel, stride, padding)
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
    self.extent = int((lasts - self.firsts).max()) + 1
    self._offsets = np.arange(extent)[:, None] - stride * np.arange(self.extent)
    self._kernel = kernel

  def kernel_rows(self, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernel row of entry a and output q, and if there is one, [h, h']."""
    rows = self._offsets + shift
    return rows.clip(0, self._kernel - 1), (rows >= 0) & (rows < self._kernel)

  def places(self) -> windows.Places:
    return tuple(int(first) for first in self.firsts)

  def inside(self) -> np.ndarray:
    return windows.inside(self.places(), self.extent, self.size)


def _convolve_windows(
    coefficients, rows, columns, shape, kernel, stride, padding, diagonal=False
) -> Local:
  """Convolution of windows [B, I, J, M, h, w, C], or of a Diagonal's.

  Windows whose places leave the same remainder share one matrix: as many
  matrix products as the stride has pairs of remainders.
  """
  height, width = coefficients.shape[4:6]
  by_row = _Axis(rows, height, shape[0], kernel.shape[0], stride, padding)
  by_column = _Axis(columns, width, shape[1], kernel.shape[1], stride, padding)
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
      if diagonal:  # Symbol k moves channel k alone.
        cells.append(few[:, :, :, 0, 0, :, None, None, None] * matrix[0, 0])
      else:
        cells.append(_contract(few, matrix))
    lines.append(_restore(cells, by_column.shifts, axis=2))
  out = _restore(lines, by_row.shifts, axis=1)
  exists = by_row.inside()[:, None, None, :, None, None]
  exists = exists & by_column.inside()[:, None, None, :, None]
  return Local(
      jnp.where(exists, out, 0),
      by_row.places(),
      by_column.places(),
      (by_row.size, by_column.size),
  )


def _matrix(kernel: Array, by_row, by_column) -> Array:
  """The part of the convolution's matrix between windows, [h,w,C,h',w',F]."""
  (rows, row_valid), (columns, column_valid) = by_row, by_column
  entries = kernel[rows[:, :, None, None], columns]  # [h, h', w, w', C, F]
  valid = row_valid[:, :, None, None] & column_valid
  entries = jnp.where(valid[..., None, None], entries, 0)
  return jnp.transpose(entries, (0, 2, 4, 1, 3, 5))


def _contract(coefficients: Array, matrix: Array) -> Array:
  lead, out = coefficients.shape[:4], matrix.shape[3:]
  flat = coefficients.reshape(math.prod(lead), -1)
  return (flat @ matrix.reshape(flat.shape[1], -1)).reshape(lead + out)


def _restore(groups: list[Array], shifts: np.ndarray, axis: int) -> Array:
  """Puts groups, one a value of `shifts`, back into the order of `shifts`."""
  if len(groups) == 1:
    return groups[0]
  order = np.argsort(np.argsort(shifts, kind="stable"), kind="stable")
  return jnp.take(jnp.concatenate(groups, axis=axis), order, axis=axis)


def _windows_are_large(block: Local, kernel, stride, padding) -> bool:
  """Whether convolving windows takes more products than whole images."""
  height, width = block.extent
  by_row = _Axis(
      block.rows, height, block.shape[0], kernel.shape[0], stride, padding
  )
  by_column = _Axis(
      block.columns, width, block.shape[1], kernel.shape[1], stride, padding
  )
  small = height * width * by_row.extent * by_column.extent
  whole = kernel.shape[0] * kernel.shape[1] * by_row.size * by_column.size
  return small >= whole
