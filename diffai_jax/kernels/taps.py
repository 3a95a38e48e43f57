"""Windows of images taken apart: what each tap of a kernel meets."""

from collections.abc import Sequence
import functools
import operator

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import precision
from diffai_jax.kernels.geometry import Number, Sides, pair, reach, sides
from diffai_jax.kernels.matrices import multiply
from diffai_jax.types import Array

_FEW_CHANNELS = 4


def pad(x: Array, padding: Sides, fill: float = 0) -> Array:
  """Images [N, H, W, C] with `padding` rows and columns of `fill` on each side."""
  pads = [(0, 0), *sides(padding), (0, 0)]
  return jnp.pad(x, pads, constant_values=fill)


def pixels_at(
    x: Array,
    window: Sequence[int],
    taps: Sequence[tuple[int, int]],
    stride: Number,
    padding: Sides,
) -> list[Array]:
  """The pixels [N, H', W', C] that each of some taps of a window meets."""
  padded = pad(x, padding)
  down, across = pair(stride)
  height, width = (
      (length - size) // step * step + 1
      for length, size, step in zip(padded.shape[1:3], window, (down, across))
  )
  return [
      padded[:, p : p + height : down, q : q + width : across]
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


def multiply_groups(
    x: Array, kernel: Array, stride: Number, padding: Sides, dilation: Number,
    groups: int,
) -> Array:
  """`multiply_windows` of any geometry: a product for each tap and group.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C/groups, F]; group g of the channels makes group g of the
      filters.
    stride, padding, dilation: of each direction.
    groups: how many.

  Returns:
    [N, H', W', F].
  """
  window, steps = kernel.shape[:2], pair(dilation)
  taps = list(np.ndindex(window))
  spread = [(p * steps[0], q * steps[1]) for p, q in taps]
  seen = pixels_at(x, reach(window, dilation), spread, stride, padding)
  return functools.reduce(operator.add, (
      _multiply_grouped(pixels, kernel[tap], groups)
      for tap, pixels in zip(taps, seen)
  ))


def _multiply_grouped(x: Array, kernel: Array, groups: int) -> Array:
  """x @ kernel by groups of channels, [..., C] and [C/groups, F]."""
  if groups == 1:
    return multiply(x, kernel)
  own, filters = kernel.shape
  product = jnp.einsum(
      "...gc,cgf->...gf",
      x.reshape(x.shape[:-1] + (groups, own)),
      kernel.reshape(own, groups, filters // groups),
      precision=precision.of_products(),
  )
  return product.reshape(x.shape[:-1] + (filters,))
