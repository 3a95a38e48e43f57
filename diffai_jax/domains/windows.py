"""Windows of an image: many small arrays, each at a place of its own.

`windows` are [B, I, J, ..., h, w, C]: the one of grid cell (i, j) begins at
row rows[i] and column columns[j] of an image [H, W, C] and may extend beyond
it. Places are static, so indices are computed before tracing.
"""

import jax.numpy as jnp
from jax import lax
import numpy as np

from diffai_jax.types import Array

Places = tuple[int, ...]


def cut(
    rows: Places, columns: Places, extent: tuple[int, int],
    shape: tuple[int, int],
) -> np.ndarray:
  """Which entries of windows lie within an image, [I, J, 1, h, w, 1]."""
  by_row, by_column = (
      _incidence(places, size, length).any(axis=2)
      for places, size, length in zip((rows, columns), extent, shape)
  )
  inside = by_row[:, None, :, None] & by_column[:, None, :]
  return inside[:, :, None, :, :, None]


def coverage(places: Places, extent: int, size: int) -> int:
  """How many windows lie on one position at the most."""
  return int(_incidence(places, extent, size).sum(axis=(0, 1)).max())


def accumulate(
    windows: Array, rows: Places, columns: Places, shape: tuple[int, int]
) -> Array:
  """Adds up all windows where they lie, [B, I, J, h, w, C] -> [B, H, W, C].

  Two products with matrices of zeros and ones; adding zeros is exact.
  """
  height, width = windows.shape[3:5]
  dtype = windows.dtype
  by_row = jnp.asarray(_incidence(rows, height, shape[0]), dtype)
  by_column = jnp.asarray(_incidence(columns, width, shape[1]), dtype)
  exact = lax.Precision.HIGHEST
  lines = jnp.einsum("bijpqc,ipy->byjqc", windows, by_row, precision=exact)
  return jnp.einsum("byjqc,jqx->byxc", lines, by_column, precision=exact)


def view(
    image: Array, rows: Places, columns: Places, extent: tuple[int, int]
) -> Array:
  """The image seen through each window, [B, H, W, C] -> [B, I, J, h, w, C].

  Entries beyond the image are 0.
  """
  height, width = extent
  pads = [(0, 0)]
  indices = []
  for places, size, length in zip((rows, columns), extent, image.shape[1:3]):
    low = max(0, -min(places))
    pads.append((low, max(0, max(places) + size - length)))
    indices.append(np.asarray(places)[:, None] + np.arange(size) + low)
  padded = jnp.pad(image, pads + [(0, 0)])
  lines = padded[:, indices[0].reshape(-1)]
  seen = lines[:, :, indices[1].reshape(-1)]
  batch, channels = image.shape[0], image.shape[3]
  seen = seen.reshape(batch, len(rows), height, len(columns), width, channels)
  return jnp.swapaxes(seen, 2, 3)


def place(
    windows: Array, rows: Places, columns: Places, shape: tuple[int, int]
) -> Array:
  """Each window as an image of its own, zero elsewhere.

  Args:
    windows: [B, I, J, M, h, w, C].
    rows, columns: where they begin.
    shape: (H, W).

  Returns:
    [B, I, J, M, H, W, C].
  """
  height, width = windows.shape[4:6]
  by_row = _incidence(rows, height, shape[0])[:, None, None]  # [I,1,1,h,H]
  by_column = _incidence(columns, width, shape[1])[:, None, None]
  lines = sum(
      jnp.where(by_row[..., p, :, None, None], windows[..., p, None, :, :], 0)
      for p in range(height)
  )
  return sum(
      jnp.where(by_column[..., q, :, None], lines[..., q, None, :], 0)
      for q in range(width)
  )


def place_some(
    windows: Array, rows: Array, columns: Array, shape: tuple[int, int]
) -> Array:
  """Windows at places that depend on data, each as an image of its own.

  Args:
    windows: [B, k, h, w, C].
    rows, columns: where each begins, int [B, k].
    shape: (H, W).

  Returns:
    [B, k, H, W, C].
  """
  lines = _spread(windows, rows[:, :, None, None, None], 2, shape[0])
  return _spread(lines, columns[:, :, None, None, None], 3, shape[1])


def _spread(values: Array, first: Array, axis: int, size: int) -> Array:
  """Moves entry a of an axis to first + a, zero elsewhere."""
  extent = values.shape[axis]
  shape = [1] * values.ndim
  shape[axis] = size
  source = jnp.arange(size).reshape(shape) - first
  seen = jnp.take_along_axis(
      values, jnp.clip(source, min=0, max=extent - 1), axis=axis
  )
  return jnp.where((source >= 0) & (source < extent), seen, 0)


def regrid(
    windows: Array,
    places: tuple[Places, Places],
    wider: tuple[Places, Places],
    extent: tuple[int, int],
) -> Array:
  """The same windows, seen in larger ones that contain them.

  Args:
    windows: [B, I, J, M, h, w, C].
    places: rows and columns where they begin.
    wider: rows and columns where the larger ones begin.
    extent: (h', w') of the larger ones.

  Returns:
    [B, I, J, M, h', w', C].
  """
  for axis in range(2):
    first = np.asarray(places[axis]) - np.asarray(wider[axis])
    if np.all(first == first[0]):  # The usual case, and a cheap one.
      pads = [(0, 0)] * 7
      rest = extent[axis] - first[0] - windows.shape[4 + axis]
      pads[4 + axis] = (int(first[0]), int(rest))
      windows = jnp.pad(windows, pads)
    else:
      shape = [1] * 7
      shape[1 + axis] = len(first)
      windows = _spread(
          windows, jnp.asarray(first.reshape(shape)), 4 + axis, extent[axis]
      )
  return windows


def _incidence(places: Places, extent: int, size: int) -> np.ndarray:
  """Whether entry a of window i lies at position y, bool [I, a, y]."""
  positions = np.asarray(places)[:, None] + np.arange(extent)
  return positions[:, :, None] == np.arange(size)
