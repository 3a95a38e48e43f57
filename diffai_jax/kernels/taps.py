"""Windows of images taken apart: what each tap of a kernel meets."""

from collections.abc import Sequence

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import precision
from diffai_jax.kernels.matrices import multiply
from diffai_jax.types import Array

_FEW_CHANNELS = 4


def pad(x: Array, padding: int, fill: float = 0) -> Array:
  """Images [N, H, W, C] with `padding` rows and columns of `fill` on each side."""
  pads = [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)]
  return jnp.pad(x, pads, constant_values=fill)


def pixels_at(
    x: Array,
    window: Sequence[int],
    taps: Sequence[tuple[int, int]],
    stride: int,
    padding: int,
) -> list[Array]:
  """The pixels [N, H', W', C] that each of some taps of a window meets."""
  padded = pad(x, padding)
  height, width = (
      (length - size) // stride * stride + 1
      for length, size in zip(padded.shape[1:3], window)
  )
  return [
      padded[:, p : p + height : stride, q : q + width : stride]
      for p, q in taps
  ]


def library_convolution(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """`multiply_windows` as the operation that a platform has a library for."""
  return lax.conv_general_dilated(
      x,
      kernel,
      window_strides=(stride, stride),
      padding=[(padding, padding)] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      precision=precision.of_products(),
  )


def multiply_windows(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """Cross-correlation, NHWC and HWIO, whose sums are those of matrix products.

  Whatever library multiplies: no convolution of one, whose algorithm nobody
  knows. As im2col for images of few channels. Of others a product for each tap
  of the kernel, because im2col would take kh·kw times the memory of x.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, F].
    stride: of both directions.
    padding: rows and columns of zeros on each side.

  Returns:
    [N, H', W', F].
  """
  if x.shape[3] <= _FEW_CHANNELS:
    return im2col(x, kernel, stride, padding)
  taps = list(np.ndindex(kernel.shape[:2]))
  seen = pixels_at(x, kernel.shape[:2], taps, stride, padding)
  total = multiply(seen[0], kernel[taps[0]])
  for tap, pixels in zip(taps[1:], seen[1:]):
    total = total + multiply(pixels, kernel[tap])
  return total


def im2col(x: Array, kernel: Array, stride: int, padding: int) -> Array:
  """`multiply_windows` as one product: of all windows, and the kernel."""
  x, kernel = space_to_depth(x, kernel, stride, padding)
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


def space_to_depth(
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
