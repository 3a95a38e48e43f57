"""Random elements, points of them, and what it means to cover a point.

Written in NumPy from the definition of γ(h) in the paper's section 2, not with
the functions under test; only `to_dense` is shared, which has its own test.
"""

import math

import numpy as np

from diffai_jax.domains import Dense, Diagonal, HybridZonotope
from diffai_jax.domains.generators import Local, symbol_count, to_dense

KINDS = ("none", "dense", "diagonal", "local", "several")


def local_block(rng, batch, shape, *, cells=(3, 2), symbols=2, extent=(2, 3)):
  """A Local block over [H, W, C], some of whose windows stick out."""
  height, width, channels = shape
  rows = tuple(int(r) for r in rng.integers(-1, height, cells[0]))
  columns = tuple(int(c) for c in rng.integers(-2, width, cells[1]))
  coefficients = rng.normal(
      size=(batch, *cells, symbols, *extent, channels)
  )
  for i, row in enumerate(rows):
    for a in range(extent[0]):
      if not 0 <= row + a < height:
        coefficients[:, i, :, :, a] = 0
  for j, column in enumerate(columns):
    for b in range(extent[1]):
      if not 0 <= column + b < width:
        coefficients[:, :, j, :, :, b] = 0
  return Local(coefficients, rows, columns, (height, width))


def random_element(
    rng, shape, kind="none", batch=3, uncorrelated=True, spread=1.0
):
  """An element whose variables lie on both sides of 0."""
  center = rng.normal(size=(batch, *shape))
  blocks = {}
  if kind in ("dense", "several"):
    blocks["a"] = Dense(spread * 0.3 * rng.normal(size=(batch, 4, *shape)))
  if kind in ("diagonal", "several"):
    blocks["b"] = Diagonal(spread * 0.5 * rng.normal(size=(batch, *shape)))
  if kind == "local" or (kind == "several" and len(shape) == 3):
    blocks["c"] = local_block(rng, batch, shape)
  radius = spread * 0.3 * np.abs(rng.normal(size=(batch, *shape)))
  if uncorrelated:
    radius[:, ..., 0] = 0  # Some variables without error.
  else:
    radius = None
  return HybridZonotope(center, radius, blocks)


def coefficients(block) -> np.ndarray:
  """A block as an array [B, m, ...]."""
  return np.asarray(to_dense(block).coefficients)


def draw_noise(rng, element, corner=False):
  """Values in [-1, 1] for β and for each family of symbols, by name."""

  def draw(shape):
    values = rng.uniform(-1, 1, shape)
    return np.sign(values) if corner else values

  noise = {None: draw(np.shape(element.center))}
  for name, block in element.correlated.items():
    noise[name] = draw(coefficients(block).shape[:2])
  return noise


def affine_part(element, noise) -> np.ndarray:
  """center + Σ g·e, where the symbols' values are given."""
  value = np.asarray(element.center).copy()
  for name, block in element.correlated.items():
    value += np.einsum("bm...,bm->b...", coefficients(block), noise[name])
  return value


def point_of(element, noise) -> np.ndarray:
  """The point of γ(h) that this noise selects."""
  value = affine_part(element, noise)
  if element.uncorrelated is not None:
    value += np.asarray(element.uncorrelated) * noise[None]
  return value


def assert_covers(element, noise, values):
  """Asserts that `values` lie in the element *at these symbols' values*.

  Stronger than lying within its bounds: the uncorrelated error alone must
  make up the difference. Symbols that `noise` does not know are free.
  """
  known = {n: b for n, b in element.correlated.items() if n in noise}
  free = [b for n, b in element.correlated.items() if n not in noise]
  fixed = HybridZonotope(element.center, None, known)
  reach = np.zeros(np.shape(element.center))
  if element.uncorrelated is not None:
    assert np.all(np.asarray(element.uncorrelated) >= 0)
    reach = reach + np.asarray(element.uncorrelated)
  for block in free:
    reach = reach + np.abs(coefficients(block)).sum(axis=1)
  distance = np.abs(np.asarray(values) - affine_part(fixed, noise))
  own_rounding = 1e-14 * (1 + reach + np.abs(values))  # Of this function.
  excess = distance - reach - own_rounding
  assert np.all(excess <= 0), f"outside by {excess.max()}"


# Of many points at once: random values and corners, along an axis of their own
# before all others.


def dense(element):
  """The element in NumPy's arrays, with each block as its dense form."""
  radius = element.uncorrelated
  if radius is not None:
    radius = np.asarray(radius)
  return HybridZonotope(
      np.asarray(element.center), radius,
      {name: Dense(dense_numbers(b)) for name, b in element.correlated.items()},
  )


def dense_numbers(block) -> np.ndarray:
  """A block as an array [B, m, ...], as its class describes it."""
  numbers = np.asarray(block.coefficients)
  if isinstance(block, Dense):
    return numbers
  if isinstance(block, Diagonal):
    batch, *shape = numbers.shape
    size = math.prod(shape)
    result = np.zeros((batch, size, size), numbers.dtype)
    np.einsum("bii->bi", result)[:] = numbers.reshape(batch, size)
    return result.reshape(batch, size, *shape)
  batch, many, few, members, height, width, channels = numbers.shape
  images = np.zeros(
      (batch, many, few, members, *block.shape, channels), numbers.dtype
  )
  for i, row in enumerate(block.rows):
    top, bottom = (np.clip(y, 0, block.shape[0]) for y in (row, row + height))
    for j, column in enumerate(block.columns):
      left, right = (
          np.clip(x, 0, block.shape[1]) for x in (column, column + width)
      )
      images[:, i, j, :, top:bottom, left:right] = numbers[
          :, i, j, :, top - row : bottom - row, left - column : right - column
      ]
  shape = (math.prod(images.shape[4:]),) if block.flat else images.shape[4:]
  return images.reshape(batch, many * few * members, *shape)


def draw_many(rng, element, count=16):
  """Values [count, B, ...] for β and each family, by name, as `draw_noise`.

  Those of the second half are 1 or -1.
  """

  def draw(shape):
    values = rng.uniform(-1, 1, (count, *shape))
    values[count // 2 :] = np.sign(values[count // 2 :])
    return values

  noise = {None: draw(np.shape(element.center))}
  for name, block in element.correlated.items():
    symbols = (len(element.center), symbol_count(block))
    noise[name] = draw(symbols)
  return noise


def affine_parts(element, noise) -> np.ndarray:
  """center + Σ g·e at each of these values of a dense element's symbols."""
  center = np.asarray(element.center)
  value = center.reshape(len(center), 1, center[0].size)
  for name, block in element.correlated.items():
    numbers = block.coefficients
    numbers = numbers.reshape(numbers.shape[:2] + (center[0].size,))
    value = value + np.moveaxis(noise[name], 0, 1) @ numbers
  count = value.shape[1] if element.correlated else 1
  return np.moveaxis(value, 1, 0).reshape(count, *center.shape)


def points_of(element, noise) -> np.ndarray:
  """The points of γ(h) that the noise of `draw_many` selects."""
  element = dense(element)
  values = affine_parts(element, noise)
  if element.uncorrelated is not None:
    values = values + element.uncorrelated * noise[None]
  return np.broadcast_to(values, noise[None].shape)


def assert_covers_all(element, noise, values):
  """`assert_covers` of values [count, B, ...] at the noise of `draw_many`."""
  element = dense(element)
  known = {n: b for n, b in element.correlated.items() if n in noise}
  free = [b for n, b in element.correlated.items() if n not in noise]
  reach = np.zeros(np.shape(element.center))
  if element.uncorrelated is not None:
    assert np.all(element.uncorrelated >= 0)
    reach = reach + element.uncorrelated
  for block in free:
    reach = reach + np.abs(block.coefficients).sum(axis=1)
  fixed = HybridZonotope(element.center, None, known)
  distance = np.abs(values - affine_parts(fixed, noise))
  own_rounding = 1e-14 * (1 + reach + np.abs(values))  # Of this function.
  excess = distance - reach - own_rounding
  assert np.all(excess <= 0), f"outside by {excess.max()}"


def assert_images_covered(rng, element, result, function, count=16):
  """Asserts that `result` covers `function` of random points and of corners.

  Args:
    rng: a NumPy generator.
    element: what the points are of.
    result: has the symbols of the element, and may have others.
    function: of arrays [B, ...].
    count: of points.
  """
  noise = draw_many(rng, element, count)
  points = points_of(element, noise)
  images = function(points.reshape(-1, *points.shape[2:]))
  noise = {n: v for n, v in noise.items() if n in element.correlated}
  assert_covers_all(
      result, noise, images.reshape(points.shape[:2] + images.shape[1:])
  )
