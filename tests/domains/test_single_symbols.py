"""Symbols of a block are those of its dense form: measured, dropped, picked."""

import dataclasses

import elements
from elements import dense_numbers as coefficients
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.domains import Dense, Diagonal
from diffai_jax.domains.generators import Local, to_dense
from diffai_jax.domains.single_symbols import (
    keep_symbols,
    select_variables,
    symbol_sizes,
    take_symbols,
)

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)


def local(rng, batch=3, *, extent=(2, 3), cells=(3, 4), members=2):
  return elements.local_block(
      rng, batch, SHAPE, cells=cells, symbols=members, extent=extent
  )


def one_window(rng, row, column, extent):
  """A Local block of a single cell at a given place, cut to the image."""
  height, width, channels = SHAPE
  cells = rng.normal(size=(2, 1, 1, 3, *extent, channels))
  for a in range(extent[0]):
    for b in range(extent[1]):
      if not (0 <= row + a < height and 0 <= column + b < width):
        cells[..., a, b, :] = 0
  return Local(cells, (row,), (column,), (height, width))


# Every structure, in random sizes and in the least ones.
BLOCKS = {
    "dense": lambda rng: Dense(rng.normal(size=(3, 6, *SHAPE))),
    "dense_vector": lambda rng: Dense(rng.normal(size=(2, 5, 7))),
    "dense_one_symbol": lambda rng: Dense(rng.normal(size=(3, 1, *SHAPE))),
    "dense_one_number": lambda rng: Dense(rng.normal(size=(1, 1, 1))),
    "diagonal": lambda rng: Diagonal(rng.normal(size=(3, *SHAPE))),
    "diagonal_vector": lambda rng: Diagonal(rng.normal(size=(2, 7))),
    "local": local,
    "local_large_windows": lambda rng: local(rng, extent=(6, 8)),
    "local_one_pixel": lambda rng: local(rng, extent=(1, 1), members=1),
    "local_corner": lambda rng: one_window(rng, -1, 4, (2, 3)),
    "local_around": lambda rng: one_window(rng, -2, -1, (8, 8)),
    "local_outside": lambda rng: one_window(rng, -3, 9, (2, 3)),
}


@pytest.fixture(params=BLOCKS)
def block(request):
  return BLOCKS[request.param](np.random.default_rng(0))


@pytest.fixture(params=["dense", "diagonal", "local"])
def one_of_each(request):
  return BLOCKS[request.param](np.random.default_rng(0))


def test_the_blocks_are_as_hard_as_they_should_be():
  """Windows in no order, that stick out on every side, and lie outside."""
  blocks = [make(np.random.default_rng(0)) for make in BLOCKS.values()]
  places = [b for b in blocks if isinstance(b, Local)]
  assert any(list(b.rows) != sorted(b.rows) for b in places)
  assert any(list(b.columns) != sorted(b.columns) for b in places)
  assert any(min(b.rows) < 0 for b in places)
  assert any(min(b.columns) < 0 for b in places)
  assert any(max(b.rows) + b.extent[0] > 4 for b in places)
  assert any(max(b.columns) + b.extent[1] > 5 for b in places)
  assert any(not np.any(coefficients(b)) for b in places)


def test_dense_forms_are_the_library_s():
  """What the others take for a block's dense form is what it makes of it."""
  blocks = {
      name: make(np.random.default_rng(0)) for name, make in BLOCKS.items()
  }
  found = jax.jit(
      lambda blocks: {name: to_dense(block) for name, block in blocks.items()}
  )(blocks)
  for name, block in blocks.items():
    np.testing.assert_array_equal(
        found[name].coefficients, coefficients(block)
    )


def test_symbol_sizes(block):
  dense = coefficients(block)
  expected = np.abs(dense).reshape(dense.shape[:2] + (-1,)).sum(axis=2)
  found = jax.jit(symbol_sizes)(block)
  assert found.shape == dense.shape[:2]
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_keep_symbols(block):
  dense = coefficients(block)
  keep = jax.jit(keep_symbols)
  rng = np.random.default_rng(1)
  everything = np.ones(dense.shape[:2], bool)
  for kept in (rng.random(dense.shape[:2]) < 0.5, everything, ~everything):
    expected = dense.copy()
    expected[~kept] = 0
    result = keep(block, kept)
    np.testing.assert_array_equal(coefficients(result), expected)
    # The structure stays, so the block can meet those of its name.
    assert type(result) is type(block)
    assert jax.tree.structure(result) == jax.tree.structure(block)
    assert result.coefficients.shape == block.coefficients.shape


def test_keep_symbols_clears_what_has_overflowed(block):
  infinite = dataclasses.replace(
      block, coefficients=np.full(block.coefficients.shape, np.inf)
  )
  dense = coefficients(infinite)
  kept = np.random.default_rng(2).random(dense.shape[:2]) < 0.5
  found = coefficients(jax.jit(keep_symbols)(infinite, kept))
  np.testing.assert_array_equal(found[~kept], 0)
  np.testing.assert_array_equal(found[kept], dense[kept])


def taken(dense, indices):
  """`take_symbols` by a loop, on [B, m, ...]."""
  result = np.zeros(indices.shape + dense.shape[2:])
  for b, row in enumerate(indices):
    for t, j in enumerate(row):
      if 0 <= j < dense.shape[1]:
        result[b, t] = dense[b, j]
  return result


def hard_indices(batch, count):
  """[B, k]: in any order, repeated, all, and outside on either side."""
  rng = np.random.default_rng(3)
  far = [-count - 1, -count, -2, -1, count, count + 1, 10**6]
  return np.concatenate([
      rng.integers(0, count, (batch, 4)),
      rng.permuted(np.tile(np.arange(count), (batch, 1)), axis=1),
      np.tile(far, (batch, 1)),
  ], axis=1)


def test_take_symbols(block):
  dense = coefficients(block)
  indices = hard_indices(*dense.shape[:2])
  result = jax.jit(take_symbols)(block, indices)  # They may be traced.
  assert isinstance(result, Dense)
  np.testing.assert_array_equal(result.coefficients, taken(dense, indices))


@pytest.mark.parametrize("indices", [[[7, -1], [0, 99], [2, 2]], [[]] * 3])
def test_take_symbols_without_jit(one_of_each, indices):
  indices = np.array(indices, int)
  result = take_symbols(one_of_each, jnp.asarray(indices)).coefficients
  expected = taken(coefficients(one_of_each), indices)
  np.testing.assert_array_equal(result, expected)


def test_take_symbols_leaves_the_overflow_of_others_behind(one_of_each):
  """What is not a number stays with symbol 0."""
  clean = coefficients(one_of_each)
  first = np.zeros(clean.shape[:2], bool)
  first[:, 0] = True
  bad = jax.tree.map(lambda c: np.full_like(c, np.nan), one_of_each)
  overflowed = jax.tree.map(
      lambda c, b: np.where(np.isnan(b), b, c),
      one_of_each, jax.jit(keep_symbols)(bad, first),
  )
  assert np.isnan(coefficients(overflowed)[:, 0]).any()
  indices = np.tile(np.arange(1, clean.shape[1] + 1), (len(clean), 1))
  result = jax.jit(take_symbols)(overflowed, indices)
  np.testing.assert_array_equal(result.coefficients, taken(clean, indices))


def test_gradients_reach_the_picked_coefficients_alone(one_of_each):
  dense = coefficients(one_of_each)
  batch, count = dense.shape[:2]
  indices = np.tile([count - 1, count - 1, -1, count], (batch, 1))
  weights = np.random.default_rng(6).normal(size=(batch, 4) + dense.shape[2:])
  slopes = jax.jit(jax.grad(lambda block: jnp.sum(
      take_symbols(block, indices).coefficients * weights
  )))(one_of_each)
  expected = np.zeros_like(dense)
  expected[:, -1] = weights[:, 0] + weights[:, 1]
  # A symbol has no coefficients where its structure has none.
  ones = jax.tree.map(np.ones_like, one_of_each)
  expected = np.where(coefficients(ones) == 1, expected, 0)
  np.testing.assert_allclose(
      coefficients(slopes), expected, rtol=1e-12
  )


@pytest.mark.parametrize("shape", [SHAPE, (7,), (1,)])
def test_select_variables(shape):
  rng = np.random.default_rng(7)
  values = rng.normal(size=(3, *shape))
  flat = values.reshape(3, -1)
  size = flat.shape[1]
  for k in {0, 1, size}:
    indices = np.array([rng.permutation(size)[:k] for _ in range(3)], int)
    expected = np.zeros((3, k, size))
    for b in range(3):
      for t, i in enumerate(indices[b]):
        expected[b, t, i] = flat[b, i]
    result = jax.jit(select_variables)(values, indices)
    assert isinstance(result, Dense)
    np.testing.assert_array_equal(
        result.coefficients, expected.reshape(3, k, *shape)
    )


def test_an_overflow_stays_with_its_own_variable():
  values = np.array([[1.0, np.inf, 3.0, np.nan]])
  result = jax.jit(select_variables)(values, np.array([[2, 1]]))
  np.testing.assert_array_equal(
      result.coefficients, [[[0, 0, 3, 0], [0, np.inf, 0, 0]]]
  )


def test_selected_and_kept_symbols_make_up_the_diagonal():
  """What correlate_fixed and decorrelate_random rely on, together."""
  rng = np.random.default_rng(8)
  values = rng.normal(size=(2, *SHAPE))
  indices = np.tile([3, 0, 39], (2, 1))
  one, other = jax.jit(lambda values, indices: (
      select_variables(values, indices),
      take_symbols(Diagonal(values), indices),
  ))(values, indices)
  np.testing.assert_array_equal(one.coefficients, other.coefficients)
