"""Linear maps of images: convolutions, and sums over windows.

On CPUs XLA is slow at some convolutions, so there they take other forms, equal
but for the order of their sums (which the allowance for rounding covers, see
`domains.rounding`); docs/performance.md has what that gains.

  - Kernels of 1x1 are multiplied as matrices.
  - Images of one channel, such as digits, go through a product of matrices: of
    their windows and the kernel.
  - The gradient of a strided convolution by its input, which XLA computes with
    an image full of holes, is that of an equal convolution of stride 1, whose
    image has each stride x stride square of pixels as the channels of one pixel
    ("space to depth"). Of images of few channels, such as photographs, the whole
    convolution takes this form. Kernels that would have to be filled up to whole
    squares, or exceed the image of slopes, are multiplied by the slopes as
    matrices, see `overlap`.
  - The gradients of a convolution 3x3 of many channels are Winograd's, see
    `winograd`.
  - The gradient by the kernel of few images is another convolution than XLA's,
    see `kernel_gradient`.

On GPUs and TPUs a convolution is a library's, which may choose an algorithm that
adds before it multiplies (Winograd, FFT), whatever its precision. Bounds do not
allow for that. So wherever products must be precise (`kernels.precision`),
convolutions there are sums of products of matrices.

Precision, and a kernel in bfloat16, are as in `matrices`.
"""

from collections.abc import Sequence
import functools
import operator

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import precision, winograd
from diffai_jax.kernels.kernel_gradient import gradient_by_kernel
from diffai_jax.kernels.matrices import in_one_type, multiply
from diffai_jax.kernels.overlap import gradient_by_input
from diffai_jax.kernels.taps import multiply_taps, pad, pixels_at
from diffai_jax.types import Array

_FEW_CHANNELS = 4
_FEW_IMAGES = 10


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
  if jax.default_backend() == "cpu":
    if kernel.shape[:2] == (1, 1) and padding == 0:
      return multiply(x[:, ::stride, ::stride], kernel[0, 0])
    if x.shape[3] == 1:
      return _convolve_by_windows(x, kernel, stride, padding)
    if stride > 1 and x.shape[3] <= _FEW_CHANNELS:
      x, kernel = _space_to_depth(x, kernel, stride, padding)
      stride, padding = 1, 0
    return _convolve_fast(x, kernel, stride, padding)
  if precision.of_products() is not None:
    return _multiply_windows(x, kernel, stride, padding)
  return _convolve(x, kernel, stride, padding)


def _multiply_windows(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """`_convolve` as products of matrices, whose sums are plain ones.

  Of windows of few channels; of others a product for each tap of the kernel,
  because windows would take as many times the memory of x.
  """
  if x.shape[3] <= _FEW_CHANNELS:
    return _convolve_by_windows(x, kernel, stride, padding)
  return multiply_taps(x, kernel, stride, padding)


def _convolve(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(stride, stride),
      padding=[(padding, padding)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of_products(),
  )


def _convolve_by_windows(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """The windows of x as rows of a matrix, times the kernel as a matrix."""
  x, kernel = _space_to_depth(x, kernel, stride, padding)
  height, width = (
      length - taps + 1
      for length, taps in zip(x.shape[1:3], kernel.shape[:2])
  )
  windows = jnp.concatenate([
      x[:, i : i + height, j : j + width]
      for i in range(kernel.shape[0])
      for j in range(kernel.shape[1])
  ], axis=3)
  return multiply(windows, kernel.reshape(-1, kernel.shape[3]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_fast(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """`_convolve`, with gradients in the forms that are fastest."""
  return _convolve(x, kernel, stride, padding)


def _forward(x, kernel, stride, padding):
  return _convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride, padding, saved, slopes):
  x, kernel = saved
  if winograd.applies(x, kernel, stride, padding):
    return winograd.gradients(x, kernel, slopes)
  return (
      _by_input(x, kernel, slopes, stride, padding),
      _by_kernel(x, kernel, slopes, stride, padding),
  )


_convolve_fast.defvjp(_forward, _backward)


def _by_input(x, kernel, slopes, stride, padding):
  window = kernel.shape[:2]
  filled = all(size % stride == 0 for size in window)
  squares = [size // stride for size in window]
  if not filled or _exceeds(squares, slopes.shape[1:3]):
    return gradient_by_input(kernel, slopes, stride, padding, x.shape[1:3])

  def convolution(v):
    if stride == 1:
      return _convolve(v, kernel, stride, padding)
    return _convolve(*_space_to_depth(v, kernel, stride, padding), 1, 0)

  return jax.linear_transpose(convolution, x)(slopes)[0]


def _by_kernel(x, kernel, slopes, stride, padding):
  if _exceeds(slopes.shape[1:3], x.shape[1:3]):
    x, padding = pad(x, padding), 0
  if stride == 1 and len(x) <= _FEW_IMAGES:
    return gradient_by_kernel(x, slopes, padding, kernel.shape[:2])

  def convolution(k):
    return _convolve(x, k, stride, padding)

  return jax.linear_transpose(convolution, kernel)(slopes)[0]


def _exceeds(window: Sequence[int], sizes: Sequence[int]) -> bool:
  """Whether a filter is larger than its image.

  XLA turns such a convolution around, and computes the other without a library.
  """
  return any(k > n for k, n in zip(window, sizes))


def _space_to_depth(
    x: Array, kernel: Array, stride: int, padding: int
) -> tuple[Array, Array]:
  """An image and a kernel whose convolution of stride 1 is that of these.

  Each stride x stride square of pixels becomes one pixel with stride² times as
  many channels; kernels are filled up with zeros to whole squares.

  Returns:
    [N, ⌈H/stride⌉, ..., stride²·C] and [⌈kh/stride⌉, ..., stride²·C, F], padded
    and cut to what the outputs meet.
  """
  batch, channels, filters = x.shape[0], x.shape[3], kernel.shape[3]
  taps = [-(-size // stride) for size in kernel.shape[:2]]
  fill = [(0, t * stride - k) for t, k in zip(taps, kernel.shape[:2])]
  squares = [
      (length + 2 * padding - size) // stride + t
      for length, size, t in zip(x.shape[1:3], kernel.shape[:2], taps)
  ]
  # Cut where the last window ends, or filled up to a whole square.
  edges = [
      (padding, stride * n - length - padding, 0)
      for n, length in zip(squares, x.shape[1:3])
  ]
  none = (0, 0, 0)
  x = lax.pad(x, jnp.zeros((), x.dtype), [none, *edges, none])
  x = x.reshape(batch, squares[0], stride, squares[1], stride, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *squares, -1)
  kernel = jnp.pad(kernel, [*fill, (0, 0), (0, 0)])
  kernel = kernel.reshape(
      taps[0], stride, taps[1], stride, channels, filters
  )
  kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(*taps, -1, filters)
  return x, kernel


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
  if jax.default_backend() != "cpu" and precision.of_products() is not None:
    edges = [
        (size - 1 - padding, size - 1 - padding, stride - 1)
        for size in kernel.shape[:2]
    ]
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), [none, *edges, none])
    return _multiply_windows(x, kernel[::-1, ::-1], 1, 0)
  return lax.conv_general_dilated(
      x,
      kernel[::-1, ::-1],
      window_strides=(1, 1),
      padding=[(size - 1 - padding,) * 2 for size in kernel.shape[:2]],
      lhs_dilation=(stride, stride),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of_products(),
  )


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
