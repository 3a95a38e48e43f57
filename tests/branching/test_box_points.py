"""Points of boxes: inside, as good as they are told to be, better than corners."""

import jax
import numpy as np
import small_networks

from diffai_jax.branching import box_points

best_points = jax.jit(box_points.best_points)


def test_points_are_inside_and_near_the_maximum():
  """Of a MILP, in boxes of another scale each; one variable has no width."""
  weights = small_networks.random_weights(3)
  rng = np.random.default_rng(0)
  low = rng.uniform(-1, 0, (6, 4)).astype(np.float32)
  width = np.float32([[1.0], [0.5], [0.1], [1.0], [0.5], [0.1]])
  high = low + width * np.float32([1, 1, 1, 0])
  outputs = weights[-1][0].shape[1]
  rows = rng.normal(size=(6, 1, outputs)).astype(np.float32)
  points, values = map(np.asarray, best_points(
      small_networks.graph_of(weights), low, high, rows,
      np.zeros((6, 1), np.float32), low, jax.random.key(0),
  ))
  assert np.all(low <= points) and np.all(points <= high)
  _, found = small_networks.run(weights, points.astype(float))
  np.testing.assert_allclose(
      np.einsum("nk,nk->n", found, rows[:, 0]), values, atol=1e-5
  )
  _, corners = small_networks.run(weights, low.astype(float))
  begin = np.einsum("nk,nk->n", corners, rows[:, 0])
  most = np.array([
      small_networks.largest(weights, low[n], high[n], rows[n, 0])
      for n in range(6)
  ])
  assert np.all(begin <= values + 1e-5) and np.all(values <= most + 1e-5)
  assert np.all(most - values <= 0.2 * (most - begin) + 1e-5)


def test_the_least_row_counts():
  """Of x and -x, whose least one is largest at 0."""
  weights = [(np.ones((1, 1), np.float32), np.zeros(1, np.float32))]
  points, values = best_points(
      small_networks.graph_of(weights), np.full((1, 1), -1, np.float32),
      np.ones((1, 1), np.float32), np.float32([[[1], [-1]]]),
      np.zeros((1, 2), np.float32), np.ones((1, 1), np.float32),
      jax.random.key(1),
  )
  assert abs(points.item()) < 0.01 and abs(values.item()) < 0.01
