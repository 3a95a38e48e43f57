"""Both gradients of a convolution 3×3, with fewer multiplications.

Winograd's F(2, 3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2015) takes two outputs of a filter w of three taps, on four inputs d,
with 4 products instead of 6: Aᵀ[(G·w) ⊙ (Bᵀ·d)]. What is linear in d and in w is
read backwards for the gradients by each, with s the cotangents of two outputs:

  by d: B[(G·w) ⊙ (A·s)],    by w: Gᵀ[(Bᵀ·d) ⊙ (A·s)].

Along both axes of an image that is 16 products of matrices, over channels for the
one and over tiles of 2×2 outputs for the other, with 4/9 of the multiplications
of a convolution. A·s serves both.

Gradients of losses only. Winograd's results are off by more than roundings of the
terms that they sum, as an input meets taps that it cancels against later, which
the bounds' allowance for rounding does not cover.
"""

from collections.abc import Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels import precision
from diffai_jax.kernels.matrices import flat, multiply
from diffai_jax.kernels.overlap import overlap_add
from diffai_jax.types import Array

_TAPS = np.array(  # G.
    [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
)
_INPUTS = np.array(  # Bᵀ.
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
)
_COTANGENTS = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])  # A.
# Of fewer channels, what passes through memory costs more than is saved.
_CHANNELS = 128


def applies(x: Array, kernel: Array, stride: int, padding: int) -> bool:
  """Whether `gradients` has this convolution, and is the faster form of it.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, F].
    stride, padding: as of `images.convolve`.
  """
  return (
      precision.for_losses.value
      and kernel.shape[:2] == (3, 3)
      and (stride, padding) == (1, 1)
      and x.shape[1] % 2 == 0
      and x.shape[2] % 2 == 0
      and min(kernel.shape[2:]) >= _CHANNELS
      and kernel.dtype != jnp.bfloat16  # The sums in it would be too coarse.
  )


@jax.jit  # Its hundreds of operations are traced once for each shape.
def gradients(
    x: Array, kernel: Array, cotangent: Array
) -> tuple[Array, Array]:
  """Of a convolution 3×3 with stride 1 and padding 1.

  Args:
    x: [N, H, W, C], of even sizes.
    kernel: [3, 3, C, F].
    cotangent: the gradient by the result, [N, H, W, F].

  Returns:
    The gradients by x and by the kernel, up to roundings.
  """
  # What stands before would be computed for each of the sums below.
  x, cotangent = lax.optimization_barrier((x, cotangent))
  cells = [[cotangent[:, i::2, j::2] for j in range(2)] for i in range(2)]
  cells = _along_both(_COTANGENTS, cells)
  return _by_input(kernel, cells), _by_kernel(x, cells)


_Grid = Sequence[Sequence[Array]]


def _by_input(kernel: Array, cells: _Grid) -> Array:
  taps = _along_both(_TAPS, kernel)
  products = [
      [multiply(s, k.T) for s, k in zip(*pair)]
      for pair in zip(cells, taps)
  ]
  tiles = _along_both(_INPUTS.T, products)
  height, width = (2 * length for length in cells[0][0].shape[1:3])
  # Tiles of four pixels begin one pixel before every second one.
  return overlap_add(tiles, 2, 1, (height, width))


def _by_kernel(x: Array, cells: _Grid) -> Array:
  height, width = x.shape[1:3]
  padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
  tiles = [
      [padded[:, i : i + height : 2, j : j + width : 2] for j in range(4)]
      for i in range(4)
  ]
  # As matrices: for sums over three axes XLA would transpose the tiles.
  products = [
      [flat(t).T @ flat(s) for t, s in zip(*pair)]
      for pair in zip(_along_both(_INPUTS, tiles), cells)
  ]
  taps = _along_both(_TAPS.T, products)
  return jnp.stack([jnp.stack(row) for row in taps])


def _along_both(matrix: np.ndarray, grid: _Grid | Array) -> _Grid:
  """matrix · grid · matrixᵀ, the grid's entries being arrays."""
  rows = zip(*(_along(matrix, column) for column in zip(*grid)))
  return [_along(matrix, row) for row in rows]


def _along(matrix: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
  """matrix @ arrays, without what is zero."""
  sums = []
  for row in matrix:
    terms = [float(w) * a for w, a in zip(row, arrays, strict=True) if w]
    sums.append(sum(terms[1:], start=terms[0]))
  return sums
