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

In loops XLA's convolutions for CPUs take up to 18 times as long as outside of them (the
same layer, 168 us a row against 9): there the adjoint is a product of matrices, whose
windows are added where they overlap (15 us).
"""

import functools

import jax
import jax.numpy as jnp

from diffai_jax.kernels.geometry import Number, Sides, expanded, one_number, sides
from diffai_jax.kernels.images import convolve
from diffai_jax.kernels.matrices import in_one_type
from diffai_jax.kernels.overlap import gradient_by_input
from diffai_jax.kernels.platforms import on_cpu
from diffai_jax.kernels.taps import multiply_windows
from diffai_jax.types import Array

Geometry = tuple[Number, Sides, Number, int]


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
  stride, padding, dilation, groups = geometry
  before = tuple(low for low, _ in sides(padding))
  return on_cpu(
      lambda rows, kernel: gradient_by_input(
          expanded(kernel, dilation, groups), rows, stride, before, shape[:2]
      ),
      lambda rows, kernel: _transposed(rows, kernel, shape, geometry),
      rows, kernel,
  )


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
