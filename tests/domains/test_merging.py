"""Blocks that meet add up, and line up, as their dense forms do."""

import itertools

from elements import dense_numbers as coefficients
import jax
import numpy as np
import pytest

from diffai_jax.domains import Dense, Diagonal, merging
from diffai_jax.domains.generators import (
    Local,
    reshape,
    to_dense,
    variable_shape,
)
from diffai_jax.domains.single_symbols import symbol_sizes

compiled_sizes = jax.jit(symbol_sizes)
pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)  # 40 variables, and 40 symbols in every block.
GRID = ((0, 1, 2, 3), (0, 1, 2, 3, 4))  # Where the pixels lie.


def windows(rng, rows, columns, extent, shape=SHAPE, members=2):
  """A Local block with these places; what is not in the image is 0."""
  height, width, channels = shape
  size = (3, len(rows), len(columns), members, *extent, channels)
  cells = rng.normal(size=size)
  for i, row in enumerate(rows):
    for a in range(extent[0]):
      if not 0 <= row + a < height:
        cells[:, i, :, :, a] = 0
  for j, column in enumerate(columns):
    for b in range(extent[1]):
      if not 0 <= column + b < width:
        cells[:, :, j, :, :, b] = 0
  return Local(cells, tuple(rows), tuple(columns), (height, width))


# All structures in which the same 40 symbols can come.
BLOCKS = {
    "dense": lambda rng: Dense(rng.normal(size=(3, 40, *SHAPE))),
    "diagonal": lambda rng: Diagonal(rng.normal(size=(3, *SHAPE))),
    "pixels": lambda rng: windows(rng, *GRID, (1, 1)),
    "around": lambda rng: windows(
        rng, (-1, 0, 1, 2), (-1, 0, 1, 2, 3), (3, 3)),
    "irregular": lambda rng: windows(
        rng, (-1, 0, 2, 3), (1, 0, 2, 4, 4), (2, 2)),
    "astray": lambda rng: windows(  # Some lie outside the image.
        rng, (9, -4, 2, 0), (0, 7, -3, 2, 4), (1, 2)),
    "large": lambda rng: windows(rng, (0,) * 4, (-1,) * 5, (4, 6)),
    "other_grid": lambda rng: windows(
        rng, (0, 2), (0, 1, 2, 3), (2, 2), members=5),
}


def make(kind, seed=0):
  return BLOCKS[kind](np.random.default_rng(seed))


def test_dense_forms_are_the_library_s():
  """What the others take for a block's dense form is what it makes of it."""
  blocks = {kind: make(kind) for kind in BLOCKS}
  blocks["flat"] = reshape(blocks["around"], (40,))
  found = jax.jit(
      lambda blocks: {kind: to_dense(block) for kind, block in blocks.items()}
  )(blocks)
  for kind, block in blocks.items():
    np.testing.assert_array_equal(
        found[kind].coefficients, coefficients(block)
    )


def assert_is(block, expected, sizes=None):
  """The block has this dense form, and holds nothing beside it.

  Args:
    block: of any structure.
    expected: [B, m, ...].
    sizes: what `symbol_sizes` is for the block, if that is known.
  """
  found = coefficients(block)
  np.testing.assert_allclose(found, expected, rtol=1e-12)
  assert variable_shape(block) == expected.shape[:1] + expected.shape[2:]
  sums = np.abs(expected).reshape(expected.shape[:2] + (-1,)).sum(axis=2)
  if sizes is None:
    sizes = compiled_sizes(block)
  np.testing.assert_allclose(sizes, sums, rtol=1e-12)


# Pixels are what a Diagonal block becomes.
PAIRS = list(itertools.combinations_with_replacement(
    [kind for kind in BLOCKS if kind != "pixels"], 2
))


@pytest.mark.parametrize("kinds", PAIRS, ids="+".join)
def test_add(kinds):
  first, second = make(kinds[0], 1), make(kinds[1], 2)
  expected = coefficients(first) + coefficients(second)

  @jax.jit
  def sums(x, y):
    total = merging.add(x, y)
    return total, merging.add(y, x), symbol_sizes(total)

  total, reverse, sizes = sums(first, second)
  assert_is(total, expected, sizes)
  assert jax.tree.structure(total) == jax.tree.structure(reverse)
  np.testing.assert_array_equal(total.coefficients, reverse.coefficients)


@pytest.mark.parametrize("kinds, structure", [
    (("diagonal", "diagonal"), Diagonal), (("diagonal", "pixels"), Local),
    (("diagonal", "around"), Local), (("around", "pixels"), Local),
    (("around", "around"), Local), (("irregular", "around"), Local),
    (("diagonal", "irregular"), Local), (("large", "pixels"), Dense),
    (("diagonal", "large"), Dense), (("astray", "around"), Dense),
    (("diagonal", "other_grid"), Dense), (("pixels", "other_grid"), Dense),
    (("other_grid", "other_grid"), Local), (("dense", "diagonal"), Dense),
    (("dense", "around"), Dense), (("dense", "dense"), Dense),
])
def test_a_sum_has_the_cheapest_structure_that_holds_both(kinds, structure):
  for pair in (kinds, kinds[::-1]):
    total = jax.eval_shape(merging.add, *map(make, pair))
    assert type(total) is structure


def test_windows_grow_no_more_than_they_must():
  """Pixels fit into the windows around them, which stay as they are."""
  around = make("around")
  for other in ("diagonal", "pixels"):
    total = jax.eval_shape(merging.add, make(other), around)
    assert (total.rows, total.columns) == (around.rows, around.columns)
    assert total.extent == (3, 3)
  shifted = windows(np.random.default_rng(0), *GRID, (2, 3))
  total = jax.eval_shape(merging.add, shifted, around)
  assert (total.rows, total.columns) == (around.rows, around.columns)
  assert total.extent == (3, 4)  # Columns -1 to 2 of the first window.


def test_what_has_overflowed_stays_where_it_is():
  first = windows(np.random.default_rng(0), *GRID, (2, 2))
  first.coefficients[0, 1, 2, 0, 1, 1, 0] = np.inf
  first.coefficients[1, 0, 0, 1, 0, 0, 1] = np.nan
  for kind in ("diagonal", "irregular"):
    second = make(kind)
    total = coefficients(jax.jit(merging.add)(first, second))
    expected = coefficients(first) + coefficients(second)
    assert np.sum(~np.isfinite(total)) == 2
    np.testing.assert_allclose(total, expected, rtol=1e-12)


def over(kind, shape, seed):
  """40 symbols over an image [H, W, C]; None has no block."""
  rng = np.random.default_rng(seed)
  if kind == "dense":
    return Dense(rng.normal(size=(3, 40, *shape)))
  if kind == "around":
    return windows(rng, (-1, 0, 1, 2), (-1, 0, 1, 2, 3), (3, 3), shape)
  if kind == "diagonal":
    return Diagonal(rng.normal(size=(3, *SHAPE)))
  return None


def lined_up(blocks, shapes, axis):
  """`concatenate` of arrays [B, 40, ...], zeros where there is no block."""
  return np.concatenate([
      np.zeros((3, 40) + shape) if block is None
      else coefficients(block)
      for block, shape in zip(blocks, shapes)
  ], axis=axis)


def check_concatenate(blocks, shapes, axis):
  batched = [(3, *shape) for shape in shapes]

  @jax.jit
  def concatenated(parts):
    result = merging.concatenate(parts, batched, axis)
    return result, symbol_sizes(result)

  result, sizes = concatenated(blocks)
  assert_is(result, lined_up(blocks, shapes, axis), sizes)
  return result


@pytest.mark.parametrize("kinds, structure", [
    (("diagonal", "diagonal"), Local), (("diagonal", None), Local),
    ((None, "around"), Local), (("around", None, "diagonal"), Local),
    (("around", "around"), Local), (("dense", "around"), Dense),
    (("diagonal", "dense", None), Dense), ((None, "dense", None), Dense),
])
def test_images_by_channel_keep_their_windows(kinds, structure):
  channels = {"diagonal": 2, "around": 3, "dense": 1, None: 4}
  shapes = [(4, 5, channels[kind]) for kind in kinds]
  blocks = [
      over(kind, shape, seed) for seed, (kind, shape)
      in enumerate(zip(kinds, shapes))
  ]
  assert type(check_concatenate(blocks, shapes, -1)) is structure


def test_irregular_windows_by_channel():
  blocks = [make("irregular", 0), None, make("around", 1), make("pixels", 2)]
  result = check_concatenate(blocks, [SHAPE] * 4, -1)
  assert isinstance(result, Local)
  for other in ("other_grid", "large", "astray"):
    result = check_concatenate([make("around"), make(other)], [SHAPE] * 2, -1)
    assert isinstance(result, Dense)


@pytest.mark.parametrize("axis", [-2, -3])
@pytest.mark.parametrize("kinds", [
    ("diagonal", "around"), ("around", None, "dense"), ("diagonal", None),
])
def test_images_side_by_side(kinds, axis):
  sizes = {"around": 3, "dense": 1, None: 6}
  shapes = []
  for kind in kinds:
    shape = list(SHAPE)
    shape[axis] = sizes.get(kind, shape[axis])
    shapes.append(tuple(shape))
  blocks = [
      over(kind, shape, seed) for seed, (kind, shape)
      in enumerate(zip(kinds, shapes))
  ]
  assert isinstance(check_concatenate(blocks, shapes, axis), Dense)


def test_vectors():
  rng = np.random.default_rng(0)
  diagonal = Diagonal(rng.normal(size=(3, 40)))
  dense = Dense(rng.normal(size=(3, 40, 7)))
  for blocks in ([diagonal, dense], [None, diagonal], [dense, None, dense],
                 [diagonal, diagonal], [dense]):
    shapes = [(7,) if b is None or b is dense else (40,) for b in blocks]
    assert isinstance(check_concatenate(blocks, shapes, -1), Dense)


def test_one_symbol_and_one_pixel():
  rng = np.random.default_rng(0)
  pixel = Diagonal(rng.normal(size=(3, 1, 1, 1)))
  window = windows(rng, (-1,), (0,), (2, 1), (1, 1, 1), members=1)
  expected = coefficients(pixel) + coefficients(window)
  total, both = jax.jit(lambda *blocks: (
      merging.add(*blocks),
      merging.concatenate(blocks, [(3, 1, 1, 1)] * 2, -1),
  ))(pixel, window)
  assert_is(total, expected)
  np.testing.assert_array_equal(
      coefficients(both)[:, 0, 0, 0],
      np.stack([coefficients(b).ravel() for b in (pixel, window)], 1),
  )


def test_to_windows():
  diagonal = make("diagonal")
  result = merging.to_windows(diagonal)
  assert isinstance(result, Local) and result.extent == (1, 1)
  assert (result.rows, result.columns) == GRID
  assert_is(result, coefficients(diagonal))
  for other in (make("dense"), make("around"), Diagonal(np.ones((3, 40))),
                Diagonal(np.ones((3, 2, 20)))):
    assert merging.to_windows(other) is other


def test_zeros_have_the_type_of_the_block():
  half = Dense(np.ones((1, 2, 3), np.float16))
  result = merging.concatenate([half, None], [(1, 3), (1, 4)], -1)
  assert result.coefficients.dtype == np.float16


@pytest.mark.parametrize("kind", BLOCKS)
def test_different_numbers_of_symbols_are_refused(kind):
  """Two families under one name, whatever their structure: never a guess."""
  few = Dense(np.ones((3, 39, *SHAPE)))
  for pair in ([make(kind), few], [few, make(kind)]):
    with pytest.raises(ValueError, match=r"\[39, 40\] noise symbols"):
      merging.add(*pair)
    for axis in (-1, -2):
      with pytest.raises(ValueError, match=r"\[39, 40\] noise symbols"):
        merging.concatenate(pair, [(3, *SHAPE)] * 2, axis)


def test_a_missing_part_is_refused():
  with pytest.raises(ValueError, match="shorter|longer"):
    merging.concatenate([make("dense")], [(3, *SHAPE)] * 2, -1)


@pytest.mark.parametrize("other", ["irregular", "around", "dense", "diagonal"])
def test_flat_images_add_up(other):
  """Two paths that end in vectors: windows meet windows, others as dense."""
  size = int(np.prod(SHAPE))
  first = reshape(make("around", 1), (size,))
  second = reshape(make(other, 2), (size,))

  @jax.jit
  def met(*blocks):
    total = merging.add(*blocks)
    joined = merging.concatenate(blocks, [(3, size)] * 2, -1)
    return (total, symbol_sizes(total)), (joined, symbol_sizes(joined))

  (total, sizes), (joined, joined_sizes) = met(first, second)
  assert_is(total, coefficients(first) + coefficients(second), sizes)
  assert isinstance(total, Local) == isinstance(second, Local)
  assert_is(joined, np.concatenate(
      [coefficients(first), coefficients(second)], axis=-1
  ), joined_sizes)
