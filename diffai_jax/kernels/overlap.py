"""Images as sums of overlapping windows, and a convolution's gradient as one."""

from collections.abc import Sequence

from jax import lax
import jax.numpy as jnp

from diffai_jax.kernels.geometry import Number, pair
from diffai_jax.kernels.matrices import multiply
from diffai_jax.types import Array


def overlap_add(
    entries: Sequence[Sequence[Array]],
    stride: Number,
    padding: Number,
    sizes: tuple[int, int],
) -> Array:
  """Adds entries[a][b] of window (i, j) to the pixel that it lies on.

  Args:
    entries: by row a and column b of a window: of all windows, [N, H', W', C].
      Window (i, j) has it at row i·stride + a - padding, and likewise column.
    stride: between windows, of both directions, or of each.
    padding: rows and columns that windows begin before the image, likewise;
      what is outside of the image is left out.
    sizes: H, W.

  Returns:
    [N, H, W, C].
  """
  down, across = pair(stride)
  before = pair(padding)
  rows = [_lines(row, 2, across, before[1], sizes[1]) for row in entries]
  columns = [
      _lines(column, 1, down, before[0], sizes[0]) for column in zip(*rows)
  ]
  # columns[r][q] has the pixels (i·stride + q, j·stride + r).
  image = jnp.stack(
      [jnp.stack(row, axis=3) for row in zip(*columns)], axis=2
  )
  batch, height, _, width, _, channels = image.shape
  image = image.reshape(batch, height * down, width * across, channels)
  return image[:, : sizes[0], : sizes[1]]


def _lines(
    entries: Sequence[Array], axis: int, stride: int, padding: int, size: int
) -> list[Array]:
  """Along one axis: every stride-th pixel from the first, from the second, ..."""
  length = -(-size // stride)

  def moved(array, by):
    pads = [(0, 0, 0)] * array.ndim
    pads[axis] = (by, length - by - array.shape[axis], 0)
    return lax.pad(array, jnp.zeros((), array.dtype), pads)

  lines = []
  for line in range(stride):
    terms = [
        moved(entry, (place - padding - line) // stride)
        for place, entry in enumerate(entries)
        if (place - padding - line) % stride == 0
    ]
    nothing = jnp.zeros_like(moved(entries[0], 0))
    lines.append(sum(terms[1:], start=terms[0]) if terms else nothing)
  return lines


def gradient_by_input(
    kernel: Array, cotangent: Array, stride: Number, padding: Number,
    sizes: tuple[int, int],
) -> Array:
  """The gradient of a convolution by its input, as one product of matrices.

  Of the cotangents of each pixel and the whole kernel, whose results are windows of the
  image; they are `stride` times `stride` times fewer than those of a
  convolution of stride 1.

  Args:
    kernel: [kh, kw, C, F].
    cotangent: the gradient by the result, [N, H', W', F].
    stride: of the convolution.
    padding: its rows and columns of zeros before the image.
    sizes: H, W of its input.

  Returns:
    [N, H, W, C].
  """
  height, width, channels, filters = kernel.shape
  windows = multiply(cotangent, kernel.reshape(-1, filters).T)
  windows = windows.reshape(cotangent.shape[:3] + (height, width, channels))
  entries = [
      [windows[:, :, :, i, j] for j in range(width)] for i in range(height)
  ]
  return overlap_add(entries, stride, padding, sizes)
