"""2-D convolution and pooling of blocks of generators over images.

A convolution of generators is the same linear map applied to each symbol's
coefficients. The block's structure decides how: Dense blocks are a batch of
images. Small windows are multiplied by the part of the convolution's matrix that
they meet; larger ones are a batch of small images.
"""

import math
from typing import Callable

from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import windows
from diffai_jax.domains.generators import (
    Block,
    Dense,
    Diagonal,
    Local,
    to_dense,
)
from diffai_jax.domains.merging import to_windows
from diffai_jax.kernels.geometry import (
    Number,
    Sides,
    expanded,
    pair,
    reach,
    sides,
)
from diffai_jax.kernels.images import convolve, convolve_transposed, pool
from diffai_jax.kernels.matrices import multiply
from diffai_jax.transformers.structure.window_convolution import (
    as_images,
    as_rows,
    axes_of,
    convolve_windows,
    matrix,
)
from diffai_jax.types import Array

# More matrix products than this take long to compile.
_MOST_PRODUCTS = 256


def convolve_block(
    block: Block, kernel: Array, stride: Number, padding: Sides,
    dilation: Number = 1, groups: int = 1,
) -> Block:
  """The convolution of every symbol's coefficients.

  Args:
    block: over [H, W, C].
    kernel, stride, padding, dilation, groups: as of `convolve`.

  Returns:
    A block of the same symbols over [H', W', F]: Local from a Diagonal or
    Local block, Dense once the windows would cost more than whole images.
  """
  if isinstance(block, Dense):
    return _as_batch(
        block,
        lambda v: convolve(v, kernel, stride, padding, dilation, groups),
    )
  taps = reach(kernel.shape[:2], dilation)
  axes = axes_of(block, taps, stride, padding)
  if isinstance(block, Diagonal):
    kernel = expanded(kernel, dilation, groups)

    def spread(pixels, shifts):
      """Symbol k of a pixel moves its channel k alone."""
      return pixels[..., None, None, None] * matrix(kernel, shifts, axes)[0, 0]

    return convolve_windows(block.coefficients, axes, spread)
  # Multiply-adds for each symbol and pair of channels.
  reached = math.prod(axis.extent for axis in axes)
  by_rows = math.prod(block.extent) * reached
  by_images = math.prod(kernel.shape[:2]) * reached
  whole = math.prod(kernel.shape[:2]) * math.prod(axis.size for axis in axes)
  if min(by_rows, by_images) >= whole:
    return convolve_block(
        to_dense(block), kernel, stride, padding, dilation, groups
    )
  if by_rows <= by_images and groups == 1:
    kernel = expanded(kernel, dilation, groups)
    return convolve_windows(
        block.coefficients, axes,
        lambda few, shifts: as_rows(few, shifts, axes, kernel),
    )
  return convolve_windows(
      block.coefficients, axes,
      lambda few, shifts: as_images(
          few, shifts, axes, taps, stride,
          lambda v, padding: convolve(
              v, kernel, stride, padding, dilation, groups
          ),
      ),
  )


def convolve_transposed_block(
    block: Block, kernel: Array, stride: Number, padding: Sides,
    dilation: Number = 1, groups: int = 1,
) -> Block:
  """The transposed convolution of every symbol's coefficients.

  A pixel's symbol moves one window of the kernel's size, so a Diagonal block
  becomes Local; Local ones become Dense.
  """
  if isinstance(block, Diagonal):
    kernel = expanded(kernel, dilation, groups)
    axes = list(zip(
        block.coefficients.shape[1:3], kernel.shape[:2], pair(stride),
        sides(padding),
    ))
    sizes = [
        (length - 1) * step + taps - before - behind
        for length, taps, step, (before, behind) in axes
    ]
    rows, columns = (
        tuple(i * step - before for i in range(length))
        for length, _, step, (before, _) in axes
    )
    kept = windows.cut(rows, columns, kernel.shape[:2], sizes)
    # Symbol (i, j, k) is channel k of its pixel: kernel[:, :, k] is its window.
    by_channel = jnp.transpose(kernel, (2, 0, 1, 3))
    cells = block.coefficients[..., None, None, None] * by_channel
    return Local(jnp.where(kept, cells, 0), rows, columns, tuple(sizes))
  return _as_batch(
      to_dense(block),
      lambda v: convolve_transposed(
          v, kernel, stride, padding, dilation, groups
      ),
  )


def multiply_pixels(block: Diagonal | Local, kernel: Array) -> Block:
  """A dense layer on the last axis of several, on every symbol's coefficients.

  Over images it is a convolution with a window of one pixel. A Diagonal over
  other axes becomes Dense: a symbol moves the outputs of its own entry.

  Args:
    block: over [..., n], of two axes or more.
    kernel: [n, k].
  """
  if isinstance(block, Local) or block.coefficients.ndim == 4:
    return convolve_block(block, kernel[None, None], 1, 0)
  coefficients = block.coefficients
  batch, *lead, size = coefficients.shape
  outputs, entries = kernel.shape[1], math.prod(lead)
  products = coefficients.reshape(batch, entries, size, 1, 1) * kernel[:, None]
  own = jnp.eye(entries, dtype=bool)[:, None, :, None]
  dense = jnp.where(own, products, 0)
  return Dense(dense.reshape((batch, entries * size, *lead, outputs)))


def multiply_windows(block: Local, kernel: Array) -> Dense:
  """A dense layer on every symbol's coefficients.

  A window's entries meet only the rows of the kernel that belong to them. Windows
  at the same place, as of all pixels between two strides, share these rows: one
  matrix product for each place.

  Args:
    block: flat, over n = H·W·C variables.
    kernel: [n, k].
  """
  if math.prod(block.extent) >= math.prod(block.shape):
    return Dense(multiply(to_dense(block).coefficients, kernel))
  rows, columns = _runs(block.rows), _runs(block.columns)
  if len(rows) * len(columns) > _MOST_PRODUCTS:
    return _multiply_rows(block, kernel)
  image = kernel.reshape(block.image_shape + (-1,))
  outputs = kernel.shape[1]
  lines = []
  for row in rows:
    of_window, of_image = _overlap(block, 0, row)
    some, seen = block.coefficients[:, row, :, :, of_window], image[of_image]
    cells = []
    for column in columns:
      of_window, of_image = _overlap(block, 1, column)
      few = some[:, :, column, :, :, of_window]
      flat = few.reshape(math.prod(few.shape[:4]), -1)
      part = seen[:, of_image].reshape(-1, outputs)
      cells.append(multiply(flat, part).reshape(few.shape[:4] + (outputs,)))
    lines.append(jnp.concatenate(cells, axis=2))
  out = jnp.concatenate(lines, axis=1)
  return Dense(out.reshape(out.shape[0], -1, outputs))


def _multiply_rows(block: Local, kernel: Array) -> Dense:
  """`multiply_windows`, one product for each row of the image.

  Its operands are the windows that reach the row, padded to its width.
  """
  height, width, channels = block.image_shape
  coefficients = _across(block)
  lead = coefficients.shape[:4]
  slabs = kernel.reshape(height, width * channels, -1)
  out = jnp.zeros(lead + kernel.shape[1:], coefficients.dtype)
  for y in range(height):
    entries = y - np.asarray(block.rows)
    lines = np.flatnonzero((entries >= 0) & (entries < block.extent[0]))
    if lines.size:
      some = coefficients[:, lines, :, :, entries[lines]]
      product = multiply(some.reshape(some.shape[:4] + (-1,)), slabs[y])
      product = jnp.moveaxis(product, 0, 1)
      first, last = lines[0], lines[-1] + 1
      # Consecutive, unless the image's axes have been exchanged.
      where = slice(first, last) if last - first == lines.size else lines
      out = out.at[:, where].add(product)
  return Dense(out.reshape(lead[0], -1, kernel.shape[1]))


def _across(block: Local) -> Array:
  """The coefficients of windows that are as wide as the image."""
  zero = jnp.zeros((), block.coefficients.dtype)
  cells = []
  for run in _runs(block.columns):
    before = block.columns[run.start]
    after = block.shape[1] - before - block.extent[1]
    pads = [(0, 0, 0)] * 5 + [(before, after, 0), (0, 0, 0)]
    cells.append(lax.pad(block.coefficients[:, :, run], zero, pads))
  return jnp.concatenate(cells, axis=2)


def _overlap(block: Local, axis: int, run: slice) -> tuple[slice, slice]:
  """Where the windows of a run and the image overlap: in each of the two."""
  first = (block.rows, block.columns)[axis][run.start]
  begin = max(first, 0)
  end = max(begin, min(first + block.extent[axis], block.shape[axis]))
  return slice(begin - first, end - first), slice(begin, end)


def _runs(places: windows.Places) -> list[slice]:
  """The slices of equal consecutive places."""
  changes = [i for i in range(1, len(places)) if places[i] != places[i - 1]]
  return [slice(*ends) for ends in zip([0, *changes], [*changes, len(places)])]


def pool_block(
    block: Block, weights: np.ndarray, stride: Number, padding: Sides
) -> Block:
  """`pool` of every symbol's coefficients; windows stay windows.

  Whatever the weights, the windows come to lie at the same places.
  """
  block = to_windows(block)
  if isinstance(block, Dense):
    return _as_batch(block, lambda v: pool(v, weights, stride, padding))
  axes = axes_of(block, weights.shape, stride, padding)
  return convolve_windows(
      block.coefficients, axes,
      lambda few, shifts: as_images(
          few, shifts, axes, weights.shape, stride,
          lambda v, padding: pool(v, weights, stride, padding),
      ),
  )


def _as_batch(block: Dense, function: Callable[[Array], Array]) -> Dense:
  """A linear map of images, applied to those of all symbols as one batch."""
  batch = block.coefficients.shape[0]
  images = block.coefficients.reshape((-1,) + block.coefficients.shape[2:])
  out = function(images)
  return Dense(out.reshape((batch, -1) + out.shape[1:]))
