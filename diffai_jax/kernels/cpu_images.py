"""Convolutions and their gradients, in the forms that are fast on CPUs.

  - Kernels of 1x1 are multiplied as matrices.
  - Images of one channel, such as digits, are multiplied as im2col.
  - Strided convolutions of few channels, such as photographs, are convolutions
    of stride 1, whose image has each stride x stride square of pixels as the
    channels of one pixel. So are the gradients by the input of those whose
    kernel is made of whole squares, such as 4x4 with stride 2: XLA computes
    them with an image full of holes. Those of other kernels are products of
    matrices, see `overlap`.
  - The gradients of a convolution 3x3 of many channels are Winograd's, see
    `winograd`.
  - The gradient by the kernel of few images is another convolution than XLA's.

All are equal to `taps.multiply_windows` but for the order of their sums.
"""

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.kernels import precision, winograd
from diffai_jax.kernels.matrices import multiply
from diffai_jax.kernels.overlap import gradient_by_input
from diffai_jax.kernels.taps import (
    im2col,
    library_convolution,
    space_to_depth,
)
from diffai_jax.types import Array

_FEW_CHANNELS = 4
_FEW_IMAGES = 10


def convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """As `images.convolve`."""
  if kernel.shape[:2] == (1, 1) and padding == 0:
    return multiply(x[:, ::stride, ::stride], kernel[0, 0])
  if x.shape[3] == 1:
    return im2col(x, kernel, stride, padding)
  if stride > 1 and x.shape[3] <= _FEW_CHANNELS:
    return _of_squares(x, kernel, stride, padding)
  return library_convolution(x, kernel, stride, padding)


def gradients(
    x: Array, kernel: Array, cotangent: Array, stride: int, padding: int
) -> tuple[Array, Array]:
  """Those of `convolve` by x and by the kernel.

  Args:
    x, kernel, stride, padding: as of `images.convolve`.
    cotangent: the gradient by the result.
  """
  if winograd.applies(x, kernel, stride, padding):
    return winograd.gradients(x, kernel, cotangent)

  is_product = x.shape[3] == 1 or kernel.shape[:2] == (1, 1)
  whole = stride > 1 and all(n % stride == 0 for n in kernel.shape[:2])
  if stride == 1 or whole or is_product:
    linear = _of_squares if whole and not is_product else convolve
    by_input, = jax.linear_transpose(
        lambda v: linear(v, kernel, stride, padding), x
    )(cotangent)
  else:
    by_input = gradient_by_input(
        kernel, cotangent, stride, padding, x.shape[1:3]
    )
  if stride == 1 and len(x) <= _FEW_IMAGES and not is_product:
    return by_input, _by_kernel(x, cotangent, padding, kernel.shape[:2])
  by_kernel, = jax.linear_transpose(
      lambda k: convolve(x, k, stride, padding), kernel
  )(cotangent)
  return by_input, by_kernel


def _of_squares(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  return library_convolution(*space_to_depth(x, kernel, stride, padding), 1, 0)


def _by_kernel(
    x: Array, cotangent: Array, padding: int, window: tuple[int, int]
) -> Array:
  """Of a convolution of stride 1: what each tap met, over all windows.

  The convolution that XLA makes of it has the images as its channels, which has
  both arrays transposed, and is slow where the images are few. This one has the
  pixels of a row as channels; it goes over images and rows, and gives the rows
  of the kernel. The cotangents moved by each column are its filters, next to
  each other.

  Args:
    x: [N, H, W, C].
    cotangent: the gradient by the result, [N, H', W', F].
    padding: of the convolution.
    window: kh, kw.

  Returns:
    [kh, kw, C, F].
  """
  height, width = window
  channels, filters = x.shape[3], cotangent.shape[3]
  zero = jnp.zeros((), x.dtype)
  none = (0, 0, 0)

  def moved(column):
    before = column - padding
    after = x.shape[2] - cotangent.shape[2] - before
    return lax.pad(cotangent, zero, [none, none, (before, after, 0), none])

  columns = jnp.concatenate([moved(j) for j in range(width)], axis=3)
  # Here x moves over the cotangents, not they over x: XLA is very slow where
  # filters are larger than images, as x is larger than these without padding.
  rows = lax.conv_general_dilated(
      x.transpose(3, 0, 1, 2),
      columns,
      window_strides=(1, 1),
      padding=[(0, 0), (padding, padding)],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of_products(),
  )
  rows = rows.reshape(channels, height, width, filters)
  return rows.transpose(1, 2, 0, 3)
