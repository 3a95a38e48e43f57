"""The best points where signs of ReLUs are known."""

import itertools

import numpy as np

from diffai_jax.branching.decided_points import best_nearby, decided_point
from tests.branching import small_networks

_SIZES = (2, 3, 2, 2)


def _best(seed):
  """The best point of each pattern of signs, its values, and the MILP's."""
  weights = small_networks.random_weights(seed, _SIZES)
  rng = np.random.default_rng(seed)
  low = rng.uniform(-1, 0, 2).astype(np.float32)
  high = low + np.float32(1.5)
  row = np.array([1, -1], np.float32)
  graph, values = small_networks.graph_of(weights), []
  for signs in itertools.product((-1, 1), repeat=5):
    # Filled up with a 0, as lists of decisions are.
    decisions = np.append(np.arange(1, 6) * signs, 0).astype(np.int32)
    point = decided_point(
        graph, low, high, decisions, row[None], np.zeros(1, np.float32)
    )
    if point is not None:
      assert (low <= point).all() and (point <= high).all()
      neurons, output = small_networks.run(weights, point[None].astype(float))
      assert (neurons[0] * signs > -1e-5).all()
      values.append(output[0] @ row)
  return values, small_networks.largest(weights, low, high, row)


def test_the_best_pattern_has_the_maximum():
  for seed in range(4):
    values, largest = _best(seed)
    assert 1 < len(values) < 32  # Some patterns have no point.
    np.testing.assert_allclose(max(values), largest, atol=1e-5)


def test_no_point_where_numbers_overflow():
  """The solver would raise, and end a whole search."""
  weights = small_networks.random_weights(0, _SIZES)
  weights[0][0][:] = np.inf
  point = decided_point(
      small_networks.graph_of(weights), np.zeros(2, np.float32),
      np.ones(2, np.float32), np.arange(1, 6, dtype=np.int32),
      np.array([[1, -1]], np.float32), np.zeros(1, np.float32),
  )
  assert point is None


def _walks(seed, starts=12):
  """Values at random points, and where walks from them end; and the MILP's."""
  weights = small_networks.random_weights(seed, (4, 10, 10, 2))
  rng = np.random.default_rng(seed)
  low = rng.uniform(-1, 0, 4).astype(np.float32)
  high = low + np.float32(1)
  row = np.array([1, -1], np.float32)
  points = rng.uniform(low, high, (starts, 4)).astype(np.float32)
  ends = np.stack([
      best_nearby(
          small_networks.graph_of(weights), low, high, point, row[None],
          np.zeros(1, np.float32),
      ) for point in points
  ])
  assert (low <= ends).all() and (ends <= high).all()
  before, after = (
      small_networks.run(weights, p.astype(float))[1] @ row
      for p in (points, ends)
  )
  return before, after, small_networks.largest(weights, low, high, row)


def test_walks_end_at_the_maximum():
  for seed in range(4):
    before, after, largest = _walks(seed)
    assert (after > before).all() and (after <= largest + 1e-5).all()
    np.testing.assert_allclose(after.max(), largest, atol=1e-5)


def test_a_walk_stays_where_numbers_overflow():
  weights = small_networks.random_weights(0, _SIZES)
  weights[0][0][:] = np.inf
  start = np.full(2, 0.25, np.float32)
  end = best_nearby(
      small_networks.graph_of(weights), np.zeros(2, np.float32),
      np.ones(2, np.float32), start, np.array([[1, -1]], np.float32),
      np.zeros(1, np.float32),
  )
  np.testing.assert_array_equal(end, start)
