"""How windows of an image move and grow under a convolution.

The symbols of a Local block each move one window, at a place of its own. What a
convolution makes of a window is a larger window at another place; which one, and
by which of the kernel's entries, depends on the place alone and is known before
tracing.
"""

import math
from typing import Callable

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import windows
from diffai_jax.domains.generators import Diagonal, Local
from diffai_jax.kernels.geometry import Number, Sides, pair, sides
from diffai_jax.kernels.matrices import multiply
from diffai_jax.types import Array


class Axis:
  """How windows move along one axis under a convolution.

  A window at place o with h entries meets outputs q with
  0 ≤ o + a + before - q·stride < k for some a < h. They begin at
  first = ⌈(o + before - k + 1) / stride⌉; entry a and output first + q meet by
  kernel row a + shift - q·stride, with shift = o + before - first·stride,
  which takes at most `stride` different values.

  Attributes:
    firsts: where each output window begins, [I].
    shifts: of each window, [I].
    extent: length of the output windows, the same for all.
    size: length of the output image.
  """

  def __init__(self, places, extent, size, kernel, stride, padding):
    before, behind = padding
    starts = np.asarray(places) + before
    self.size = (size + before + behind - kernel) // stride + 1
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


def axes_of(
    block: Diagonal | Local, taps: tuple[int, int], stride: Number,
    padding: Sides,
) -> list[Axis]:
  """How a block's windows move along rows and columns.

  A Diagonal block's windows, over images [H, W, C], are its pixels.
  """
  if isinstance(block, Diagonal):
    shape = block.coefficients.shape[1:3]
    places, extent = map(range, shape), (1, 1)
  else:
    shape, extent = block.shape, block.extent
    places = (block.rows, block.columns)
  return [
      Axis(*of_axis) for of_axis in zip(
          places, extent, shape, taps, pair(stride), sides(padding)
      )
  ]


def convolve_windows(
    coefficients: Array, axes: list[Axis], contract: Callable
) -> Local:
  """Convolution of windows [B, I, J, M, h, w, C].

  Windows whose places leave the same remainder are convolved alike, in as many
  groups as the stride has pairs of remainders.

  Args:
    coefficients: of the windows.
    axes: how they move along the rows and the columns.
    contract: of windows [B, i, j, M, h, w, C] with the same two shifts and of
      these shifts; the windows [B, i, j, M, h', w', F].
  """
  by_row, by_column = axes
  lines = []
  for row_shift in np.unique(by_row.shifts):
    cells = []
    some = coefficients[:, by_row.shifts == row_shift]
    for column_shift in np.unique(by_column.shifts):
      few = some[:, :, by_column.shifts == column_shift]
      cells.append(contract(few, (int(row_shift), int(column_shift))))
    lines.append(_restore(cells, by_column.shifts, axis=2))
  out = _restore(lines, by_row.shifts, axis=1)
  rows, columns = by_row.places(), by_column.places()
  sizes = (by_row.size, by_column.size)
  extent = (by_row.extent, by_column.extent)
  kept = windows.cut(rows, columns, extent, sizes)
  return Local(jnp.where(kept, out, 0), rows, columns, sizes)


def matrix(
    kernel: Array, shifts: tuple[int, int], axes: list[Axis]
) -> Array:
  """The part of the convolution's matrix between windows of two shifts.

  [h, w, C, h', w', F], of a kernel [kh, kw, C, F].
  """
  (rows, row_valid), (columns, column_valid) = (
      axis.kernel_rows(shift) for axis, shift in zip(axes, shifts)
  )
  entries = kernel[rows[:, :, None, None], columns]  # [h, h', w, w', ...]
  valid = row_valid[:, :, None, None] & column_valid
  entries = jnp.where(valid[..., None, None], entries, 0)
  return jnp.transpose(entries, (0, 2, 4, 1, 3, 5))


def as_rows(
    few: Array, shifts: tuple[int, int], axes: list[Axis], kernel: Array
) -> Array:
  """Every window as a row, times the convolution's matrix.

  Args:
    few, shifts: as of `contract` in `convolve_windows`.
    axes: of all windows.
    kernel: [kh, kw, C, F].
  """
  part = matrix(kernel, shifts, axes)
  rows = few.reshape(math.prod(few.shape[:4]), -1)
  product = multiply(rows, part.reshape(rows.shape[1], -1))
  return product.reshape(few.shape[:4] + part.shape[3:])


def as_images(
    few: Array, shifts: tuple[int, int], axes: list[Axis],
    taps: tuple[int, int], stride: Number,
    function: Callable[[Array, int], Array],
) -> Array:
  """Every window as a small image of its own, padded to what it meets.

  Args:
    few, shifts: as of `contract` in `convolve_windows`.
    axes: of all windows.
    taps, stride: of the convolution; taps are those that it reaches over.
    function: of images [N, H, W, C] and a padding; their convolution.
  """
  pads = [
      (shift, (axis.extent - 1) * step + size - shift - length)
      for axis, shift, size, length, step in zip(
          axes, shifts, taps, few.shape[4:6], pair(stride)
      )
  ]
  images = few.reshape((-1,) + few.shape[4:])
  padding = pads[0][0]
  if any(pad != padding for ends in pads for pad in ends):
    ends = [(0, 0, 0), *(end + (0,) for end in pads), (0, 0, 0)]
    images = lax.pad(images, jnp.zeros((), images.dtype), ends)
    padding = 0
  out = function(images, padding)
  return out.reshape(few.shape[:4] + out.shape[1:])


def _restore(groups: list[Array], shifts: np.ndarray, axis: int) -> Array:
  """Puts groups, one a value of `shifts`, back into the order of `shifts`."""
  if len(groups) == 1:
    return groups[0]
  order = np.argsort(np.argsort(shifts, kind="stable"), kind="stable")
  return jnp.take(jnp.concatenate(groups, axis=axis), order, axis=axis)
