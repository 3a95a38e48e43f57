"""Windows of images taken apart: what each tap of a kernel meets."""

from collections.abc import Sequence
import functools
import operator

import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels.matrices import multiply
from diffai_jax.types import Array


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


def multiply_taps(
    x: Array, kernel: Array, stride: int, padding: int
) -> Array:
  """Cross-correlation, NHWC and HWIO, as a product of matrices for each tap.

  Each output is a plain sum of products, whatever library multiplies; and no
  copy of x has all windows, which would take kh·kw times its memory.

  Args:
    x: [N, H, W, C].
    kernel: [kh, kw, C, F].
    stride: of both directions.
    padding: rows and columns of zeros on each side.

  Returns:
    [N, H', W', F].
  """
  taps = list(np.ndindex(kernel.shape[:2]))
  seen = pixels_at(x, kernel.shape[:2], taps, stride, padding)
  terms = [multiply(pixels, kernel[tap]) for tap, pixels in zip(taps, seen)]
  return functools.reduce(operator.add, terms)
