"""Linear maps of images: convolutions, and sums over windows.

On CPUs XLA is slow at some convolutions; `cpu_images` has the forms that they
take there, and their gradients. All are equal but for the order of their sums,
which the allowance for rounding covers (see `domains.rounding`).

On GPUs and TPUs a convolution is a library's, which may choose an algorithm
that adds before it multiplies (Winograd, FFT), whatever its precision. Bounds do
not allow for that. So wherever products must be precise (`kernels.precision`),
convolutions there are sums of products of matrices.

Precision, and a kernel in bfloat16, are as in `matrices`.
"""

import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import cpu_images, precision
from diffai_jax.kernels.matrices import in_one_type
from diffai_jax.kernels.platforms import on_cpu
from diffai_jax.kernels.taps import (
    library_convolution,
    multiply_windows,
    pixels_at,
)
from diffai_jax.types import Array


@in_one_type
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
  check_window(x.shape[1:3], kernel.shape[:2], stride, padding)
  return _convolve(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  return on_cpu(
      lambda x, kernel: cpu_images.convolve(x, kernel, stride, padding),
      lambda x, kernel: _plain(x, kernel, stride, padding),
      x, kernel,
  )


def _forward(x, kernel, stride, padding):
  return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, cotangent):

  def plain(x, kernel, cotangent):
    by_input, = jax.linear_transpose(
        lambda v: _plain(v, kernel, stride, padding), x
    )(cotangent)
    by_kernel, = jax.linear_transpose(
        lambda k: _plain(x, k, stride, padding), kernel
    )(cotangent)
    return by_input, by_kernel

  return on_cpu(
      lambda *arrays: cpu_images.gradients(*arrays, stride, padding),
      plain,
      *saved, cotangent,
  )


_convolve.defvjp(_forward, _backward)


def _plain(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  if precision.of_products() is None:
    return library_convolution(x, kernel, stride, padding)
  return multiply_windows(x, kernel, stride, padding)


def check_window(sizes, window, stride: int, padding: int) -> None:
  """Raises ValueError unless a window fits into the padded image."""
  fits = all(n + 2 * padding >= k >= 1 for n, k in zip(sizes, window))
  if not fits or stride < 1 or padding < 0:
    raise ValueError(
        f"a window {window[0]}x{window[1]} with stride {stride} and padding"
        f" {padding} does not fit an image {sizes[0]}x{sizes[1]}"
    )


def stride_or(stride: int | None, window: int) -> int:
  """The stride of a pool; its window where none is given."""
  return window if stride is None else stride


@in_one_type
def convolve_transposed(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """Adds x[i]·kernel[a] to output i·stride + a - padding, NHWC and HWIO.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, F].
    stride: of both directions.
    padding: rows and columns that are cut off on each side.

  Returns:
    [N, (H-1)·stride + kh - 2·padding, ..., F].
  """
  if stride < 1 or padding < 0:
    raise ValueError(
        f"a transposed convolution has the stride {stride} and the padding"
        f" {padding}; they must be at least 1 and 0"
    )
  if precision.of_products() is None:
    return _library_transposed(x, kernel, stride, padding)
  return on_cpu(
      lambda x, kernel: _library_transposed(x, kernel, stride, padding),
      lambda x, kernel: _multiply_dilated(x, kernel, stride, padding),
      x, kernel,
  )


def _library_transposed(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  return lax.conv_general_dilated(
      x,
      kernel[::-1, ::-1],
      window_strides=(1, 1),
      padding=[(size - 1 - padding,) * 2 for size in kernel.shape[:2]],
      lhs_dilation=(stride, stride),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of_products(),
  )


def _multiply_dilated(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """`convolve_transposed` as products of matrices, of an image with holes."""
  edges = [
      (size - 1 - padding, size - 1 - padding, stride - 1)
      for size in kernel.shape[:2]
  ]
  none = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), [none, *edges, none])
  return multiply_windows(x, kernel[::-1, ::-1], 1, 0)


def pool(x: Array, weights: np.ndarray, stride: int, padding: int) -> Array:
  """Weighted sums over windows, channel by channel, with zero padding.

  Args:
    x: [N, H, W, C].
    weights: static, [kh, kw]; what is 0 costs nothing.
    stride: of both directions.
    padding: rows and columns of zeros on each side.

  Returns:
    [N, H', W', C].
  """
  check_window(x.shape[1:3], weights.shape, stride, padding)
  taps = list(zip(*np.nonzero(weights)))
  terms = []
  for tap, seen in zip(taps, pixels_at(x, weights.shape, taps, stride, padding)):
    weight = float(weights[tap])  # Python's: it keeps the type of x.
    terms.append(seen if weight == 1 else seen * weight)
  return functools.reduce(operator.add, terms)
