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
from diffai_jax.kernels.geometry import (
    Number,
    Sides,
    check_groups,
    check_window,
    one_number,
    pair,
    reach,
    sides,
)
from diffai_jax.kernels.matrices import in_one_type
from diffai_jax.kernels.platforms import on_cpu
from diffai_jax.kernels.taps import (
    library_convolution,
    multiply_groups,
    multiply_windows,
    pixels_at,
)
from diffai_jax.types import Array


@in_one_type
def convolve(
    x: Array, kernel: Array, stride: Number, padding: Sides,
    dilation: Number = 1, groups: int = 1,
) -> Array:
  """Cross-correlation with zero padding, NHWC and HWIO.

  The fast forms are those of one stride, without dilation and groups. What is
  padded more on some sides than on others is padded before it.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C/groups, F].
    stride: of both directions, or of each.
    padding: rows and columns of zeros on each side, or ((top, bottom), (left,
      right)).
    dilation: from one tap of the kernel to the next.
    groups: of channels, each of which makes as many of the filters.

  Returns:
    [N, H', W', F].
  """
  check_groups(x.shape[3], kernel.shape, groups)
  window = reach(kernel.shape[:2], dilation)
  check_window(x.shape[1:3], window, stride, padding)
  numbers = one_number(stride, dilation)
  if groups > 1 or numbers is None or numbers[1] > 1:
    return _of_any_geometry(x, kernel, stride, padding, dilation, groups)
  edges = sides(padding)
  common = min(map(min, edges))
  if max(map(max, edges)) > common:
    more = [(low - common, high - common, 0) for low, high in edges]
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), [none, *more, none])
  return _convolve(x, kernel, numbers[0], common)


def _of_any_geometry(x, kernel, stride, padding, dilation, groups) -> Array:
  """`convolve` by the library's convolution, or by products of matrices."""

  def library(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=pair(stride),
        padding=sides(padding),
        rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=precision.of_products(),
    )

  if precision.of_products() is None:
    return library(x, kernel)
  return on_cpu(
      library,
      lambda x, kernel: multiply_groups(
          x, kernel, stride, padding, dilation, groups
      ),
      x, kernel,
  )


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


def stride_or(stride: Number | None, window: Number) -> Number:
  """The stride of a pool; its window where none is given."""
  return window if stride is None else stride


@in_one_type
def convolve_transposed(
    x: Array, kernel: Array, stride: Number, padding: Sides,
    dilation: Number = 1, groups: int = 1,
) -> Array:
  """Adds x[i]·kernel[a] to output i·stride + a·dilation - padding, NHWC and HWIO.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C/groups, F].
    stride: of both directions, or of each.
    padding: rows and columns that are cut off on each side, or ((top, bottom),
      (left, right)); of these, negative ones are added.
    dilation, groups: as of `convolve`.

  Returns:
    [N, (H-1)·stride + (kh-1)·dilation + 1 - 2·padding, ..., F].
  """
  check_groups(x.shape[3], kernel.shape, groups)
  cut_off = not isinstance(padding, int) or padding >= 0
  if min(pair(stride)) < 1 or not cut_off:
    raise ValueError(
        f"a transposed convolution has the stride {stride} and the padding"
        f" {padding}; they must be at least 1 and 0"
    )
  numbers = one_number(stride, padding, dilation)
  if groups > 1 or numbers is None or numbers[2] > 1:
    return _transposed_of_any_geometry(
        x, kernel, stride, padding, dilation, groups
    )
  stride, padding, _ = numbers
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


def _transposed_of_any_geometry(
    x, kernel, stride, padding, dilation, groups
) -> Array:
  """A convolution of stride 1 of the image with holes, by the kernel reversed."""
  edges = [
      (size - 1 - low, size - 1 - high, step - 1)
      for size, (low, high), step in zip(
          reach(kernel.shape[:2], dilation), sides(padding), pair(stride)
      )
  ]
  none = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), [none, *edges, none])
  return _of_any_geometry(x, kernel[::-1, ::-1], 1, 0, dilation, groups)


def pool(
    x: Array, weights: np.ndarray, stride: Number, padding: Sides
) -> Array:
  """Weighted sums over windows, channel by channel, with zero padding.

  Args:
    x: [N, H, W, C].
    weights: static, [kh, kw]; what is 0 costs nothing.
    stride: of both directions, or of each.
    padding: rows and columns of zeros on each side, or ((top, bottom), (left,
      right)).

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
