"""Every operation on a block equals the same operation on its dense form."""

import dataclasses

import elements
import jax
import numpy as np
import pytest

from diffai_jax.domains import Dense, Diagonal, generators
from diffai_jax.domains.generators import Local

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)


def make_block(kind):
  rng = np.random.default_rng(1)
  if kind == "dense":
    return Dense(rng.normal(size=(3, 6, *SHAPE)))
  if kind == "diagonal":
    return Diagonal(rng.normal(size=(3, *SHAPE)))
  return elements.local_block(rng, 3, SHAPE)


@pytest.fixture(params=("dense", "diagonal", "local"))
def block(request):
  return make_block(request.param)


def test_to_dense_of_diagonal_moves_each_variable_by_its_own_symbol():
  block = make_block("diagonal")
  dense = elements.coefficients(block)
  assert dense.shape == (3, 40, *SHAPE)
  for symbol in range(40):
    expected = np.zeros((3, 40))
    expected[:, symbol] = np.reshape(block.coefficients, (3, 40))[:, symbol]
    np.testing.assert_array_equal(dense[:, symbol].reshape(3, 40), expected)


def test_to_dense_of_local_puts_each_window_at_its_place():
  block = make_block("local")
  dense = elements.coefficients(block)
  windows = np.asarray(block.coefficients)
  expected = np.zeros((3, 3, 2, 2, *SHAPE))
  for i, row in enumerate(block.rows):
    for j, column in enumerate(block.columns):
      for a in range(block.extent[0]):
        for b in range(block.extent[1]):
          y, x = row + a, column + b
          if 0 <= y < SHAPE[0] and 0 <= x < SHAPE[1]:
            expected[:, i, j, :, y, x] = windows[:, i, j, :, a, b]
  np.testing.assert_array_equal(dense, expected.reshape(dense.shape))


def test_to_dense_is_what_other_tests_take_for_it(block):
  np.testing.assert_array_equal(
      elements.coefficients(block), elements.dense_numbers(block)
  )


def test_symbol_count(block):
  _, count, *_ = elements.dense_numbers(block).shape
  assert generators.symbol_count(block) == count


def test_absolute_sum(block):
  expected = np.abs(elements.dense_numbers(block)).sum(axis=1)
  np.testing.assert_allclose(
      generators.absolute_sum(block), expected, rtol=1e-12
  )


def test_terms_summed_counts_at_least_the_nonzero_terms(block):
  nonzero = (elements.dense_numbers(block) != 0).sum(axis=1).max()
  count = generators.terms_summed(block)
  assert nonzero <= count <= generators.symbol_count(block)


@pytest.mark.parametrize("shape", [(), (2,), (5, 1), SHAPE, (3, *SHAPE)])
def test_scale_and_weigh(block, shape):
  factor = np.random.default_rng(3).normal(size=shape)
  expected = elements.dense_numbers(block) * (
      factor[:, None] if len(shape) == 4 else factor
  )
  results = jax.jit(lambda *given: (
      generators.scale(*given), generators.weigh(*given)
  ))(block, factor)
  for result in results:
    np.testing.assert_allclose(
        elements.dense_numbers(result), expected, rtol=1e-12
    )


def test_weigh_clears_what_has_overflowed(block):
  infinite = jax.tree.map(lambda c: np.full(np.shape(c), np.inf), block)
  slope = (np.random.default_rng(2).random((3, *SHAPE)) < 0.5).astype(float)
  result = elements.dense_numbers(generators.weigh(infinite, slope))
  cleared = np.broadcast_to(slope[:, None] == 0, result.shape)
  np.testing.assert_array_equal(result[cleared], 0)


def test_variable_shape(block):
  assert generators.variable_shape(block) == (3, *SHAPE)


@pytest.mark.parametrize("shape", [(40,), (2, 20), (5, 4, 2)])
def test_reshape(block, shape):
  result = elements.dense_numbers(generators.reshape(block, shape))
  dense = elements.dense_numbers(block)
  np.testing.assert_array_equal(result, dense.reshape(dense.shape[:2] + shape))


def test_windows_stay_windows_when_the_image_becomes_flat():
  block = make_block("local")
  flat = generators.reshape(block, (40,))
  assert isinstance(flat, Local) and flat.coefficients is block.coefficients
  assert generators.variable_shape(flat) == (3, 40)
  np.testing.assert_allclose(
      generators.absolute_sum(flat),
      np.abs(elements.dense_numbers(block)).sum(axis=1).reshape(3, 40),
      rtol=1e-12,
  )
  factor = np.random.default_rng(4).normal(size=(3, 40))
  np.testing.assert_allclose(
      elements.dense_numbers(generators.scale(flat, factor)),
      elements.dense_numbers(flat) * factor[:, None], rtol=1e-12,
  )
  again = generators.reshape(flat, SHAPE)
  assert again.coefficients is block.coefficients
  # Python 3.13 would ask arrays for their truth: no == of whole blocks.
  for field in ("rows", "columns", "shape", "flat"):
    assert getattr(again, field) == getattr(block, field)
  assert isinstance(generators.reshape(flat, (2, 20)), Dense)


def test_blocks_are_pytrees_with_static_places(block):
  leaves, structure = jax.tree.flatten(block)
  assert len(leaves) == 1
  rebuilt = jax.tree.unflatten(structure, leaves)
  for field in dataclasses.fields(block):
    before, after = getattr(block, field.name), getattr(rebuilt, field.name)
    assert before is after or before == after
