"""Blocks of windows, convolved, pooled and multiplied as windows or as images."""

import elements
import jax
import numpy as np
import pytest

from diffai_jax.domains.generators import Dense, Local, reshape, to_dense
from diffai_jax.transformers.structure import block_convolution as convolution

pytestmark = pytest.mark.usefixtures("float64")

SHAPE = (11, 10)
# Windows that stick out on all sides, one beyond the image, some at one place.
ROWS = (-2, -2, 0, 3, 6, 8, 12)
COLUMNS = (-1, 1, 2, 7, 7)


def block_of(extent: int, channels: int = 2) -> Local:
  rng = np.random.default_rng(extent)
  shape = (2, len(ROWS), len(COLUMNS), 3, extent, extent, channels)
  coefficients = rng.normal(size=shape)
  inside = np.ones((len(ROWS), len(COLUMNS), extent, extent), bool)
  for i, row in enumerate(ROWS):
    for j, column in enumerate(COLUMNS):
      for p in range(extent):
        for q in range(extent):
          inside[i, j, p, q] = (
              0 <= row + p < SHAPE[0] and 0 <= column + q < SHAPE[1]
          )
  coefficients *= inside[:, :, None, :, :, None]
  return Local(coefficients, ROWS, COLUMNS, SHAPE)


def assert_same(ours, expected):
  assert isinstance(expected, Dense)
  np.testing.assert_allclose(
      elements.dense_numbers(ours), expected.coefficients, atol=1e-12
  )


def both(act, block):
  """What becomes of a block, and of its dense form."""
  return jax.jit(lambda block: (act(block), act(to_dense(block))))(block)


@pytest.mark.parametrize("extent", [1, 2, 4])
@pytest.mark.parametrize(
    "taps, stride, padding",
    [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 3, 1), (3, 1, 1), (3, 2, 1), (4, 2, 1)],
)
def test_convolved_windows_are_convolved_images(extent, taps, stride, padding):
  kernel = np.random.default_rng(0).normal(size=(taps, taps, 2, 3))
  ours, expected = both(
      lambda x: convolution.convolve_block(x, kernel, stride, padding),
      block_of(extent),
  )
  assert_same(ours, expected)
  # All of these take fewer products than whole images would.
  assert isinstance(ours, Local) or extent == 4


@pytest.mark.parametrize("extent", [1, 3])
@pytest.mark.parametrize("taps, stride, padding", [(2, 2, 0), (3, 1, 1), (3, 2, 1)])
def test_pooled_windows_are_pooled_images(extent, taps, stride, padding):
  weights = np.full((taps, taps), 1 / taps**2)
  weights[0, -1] = 0
  ours, expected = both(
      lambda x: convolution.pool_block(x, weights, stride, padding),
      block_of(extent),
  )
  assert isinstance(ours, Local)
  assert_same(ours, expected)


@pytest.mark.parametrize("most", [0, 256])
@pytest.mark.parametrize("extent", [1, 5, 11])
def test_a_dense_layer_of_windows(most, extent, monkeypatch):
  """Place by place, row of the image by row, and as whole images."""
  monkeypatch.setattr(convolution, "_MOST_PRODUCTS", most)
  block = block_of(extent)
  flat = reshape(block, (SHAPE[0] * SHAPE[1] * 2,))
  kernel = np.random.default_rng(1).normal(size=(SHAPE[0] * SHAPE[1] * 2, 3))
  multiply = jax.jit(lambda x: convolution.multiply_windows(x, kernel))
  np.testing.assert_allclose(
      multiply(flat).coefficients, elements.dense_numbers(flat) @ kernel,
      atol=1e-12,
  )
