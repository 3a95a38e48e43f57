"""The adjoint of a convolution by its input: with gradients of its own; in loops.

For y = x * k, bilinear in x and k, the adjoint a(r, k) has ⟨a(r, k), x⟩ = ⟨r, x * k⟩.
So with a cotangent c of a(r, k), shaped like x: its gradient by r is c * k, a
convolution, and that by k what a convolution of c has for r: forms that `images` has
already. Differentiating the adjoint's own program instead takes up to 20 times as
long on CPUs (1,152 rows of ConvSmall's second layer: 419 ms of CPU time against 21).

With a stride XLA's gradient by the kernel has the rows as channels of a convolution
with holes. There are many rows, one for each example and class: on CPUs it is a
product for each tap of the kernel instead (a CROWN-IBP step of ConvSmall: 494 ms with
the one, 339 with the other).

In loops XLA's convolutions with holes take up to 25 times as long on CPUs as outside
of them (the same layer, 150 to 170 us a row against 9). There, with a stride s, pixels
of s·s phases are the channels of a convolution without a stride (12 us a row; a layer
of 3x3 and 32 channels: 85, where adding overlapping windows takes 180). Few channels
fill no vector of those convolutions: there it is a product of matrices, whose windows
are added where they overlap (the first layer: 3 us a row, 11 by phases).
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax.kernels.geometry import (
    Number,
    Sides,
    expanded,
    one_number,
    pair,
    sides,
)
from diffai_jax.kernels.images import convolve
from diffai_jax.kernels.matrices import in_one_type
from diffai_jax.kernels.overlap import gradient_by_input
from diffai_jax.kernels.platforms import computed_once, on_cpu
from diffai_jax.kernels.taps import multiply_windows
from diffai_jax.types import Array

Geometry = tuple[Number, Sides, Number, int]

_MANY = 8  # Channels of an image from which convolutions by phases gain.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolution_adjoint(
    rows: Array, kernel: Array, shape: tuple[int, int, int], geometry: Geometry
) -> Array:
  """The gradient of ⟨rows, convolve(x, kernel, *geometry)⟩ by x.

  Args:
    rows: [N, H', W', F].
    kernel: [kh, kw, C/groups, F].
    shape: of x, (H, W, C).
    geometry: stride, padding, dilation and groups of `convolve`.

  Returns:
    [N, H, W, C].
  """
  return _transposed(rows, kernel, shape, geometry)


def _transposed(rows, kernel, shape, geometry):
  x = jnp.zeros((len(rows), *shape), rows.dtype)
  _, transposed = jax.vjp(lambda v: convolve(v, kernel, *geometry), x)
  return transposed(rows)[0]


@in_one_type
def adjoint_in_loops(
    rows: Array, kernel: Array, shape: tuple[int, int, int], geometry: Geometry
) -> Array:
  """As `convolution_adjoint`, for programs that loop over it."""
  return _in_loops(rows, kernel, shape, geometry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _in_loops(rows, kernel, shape, geometry):
  stride, padding, dilation, groups = geometry
  before = tuple(low for low, _ in sides(padding))
  fast = _by_phases if shape[2] >= _MANY else gradient_by_input
  return on_cpu(
      lambda rows, kernel: fast(
          expanded(kernel, dilation, groups), rows, stride, before, shape[:2]
      ),
      lambda rows, kernel: _transposed(rows, kernel, shape, geometry),
      rows, kernel,
  )


def _by_phases(
    kernel: Array, rows: Array, stride: Number, before: tuple[int, int],
    sizes: tuple[int, int],
) -> Array:
  """The adjoint as a convolution without a stride.

  Pixel i·s + q of the padded image, 0 ≤ q < s, gets kernel[q + s·m] of row i - m for
  each m. So each block of s by s pixels is what a kernel of k/s by k/s taps, rounded
  up, makes of rows, with the place in the block as part of the channel.

  Args:
    kernel: [kh, kw, C, F].
    rows: [N, H', W', F].
    stride, before: s, and the rows and columns of zeros before the image.
    sizes: H, W.
  """
  channels, filters = kernel.shape[2:]
  steps = pair(stride)
  taps = [-(-k // s) for k, s in zip(kernel.shape, steps)]
  blocks = [-(-(n + b) // s) for n, b, s in zip(sizes, before, steps)]
  fill = [(0, t * s - k) for t, s, k in zip(taps, steps, kernel.shape)]
  kernel = jnp.pad(kernel, (*fill, (0, 0), (0, 0)))
  kernel = kernel.reshape(
      taps[0], steps[0], taps[1], steps[1], channels, filters
  ).transpose(0, 2, 5, 1, 3, 4)[::-1, ::-1]
  found = lax.conv_general_dilated(
      rows, kernel.reshape(*taps, filters, -1), (1, 1),
      [(t - 1, n - size)
       for t, n, size in zip(taps, blocks, rows.shape[1:3])],
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
  )
  found = found.reshape(-1, *blocks, *steps, channels)
  found = found.transpose(0, 1, 3, 2, 4, 5).reshape(
      -1, blocks[0] * steps[0], blocks[1] * steps[1], channels
  )
  (top, left), (height, width) = before, sizes
  return computed_once(found[:, top:top + height, left:left + width])


def _forward(rows, kernel, shape, geometry):
  return convolution_adjoint(rows, kernel, shape, geometry), (rows, kernel)


def _backward(shape, geometry, saved, cotangent):
  rows, kernel = saved

  def by_kernel(function):
    def gradient(rows, cotangent, kernel):
      _, transposed = jax.vjp(lambda k: function(cotangent, k), kernel)
      return transposed(rows)[0]

    return gradient

  library = by_kernel(lambda x, k: convolve(x, k, *geometry))
  strided = one_number(geometry[0], geometry[1])
  if strided is None or strided[0] == 1 or geometry[2:] != (1, 1):
    found = library(rows, cotangent, kernel)
  else:
    by_taps = by_kernel(lambda x, k: multiply_windows(x, k, *strided))
    found = on_cpu(by_taps, library, rows, cotangent, kernel)
  return convolve(cotangent, kernel, *geometry), found


convolution_adjoint.defvjp(_forward, _backward)
_in_loops.defvjp(
    lambda rows, kernel, shape, geometry: (
        _in_loops(rows, kernel, shape, geometry), (rows, kernel)
    ), _backward,
)
