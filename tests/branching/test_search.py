"""Branch and bound: verdicts of a MILP, leaves that cover, bounds that hold."""

import dataclasses

import numpy as np
import pytest
import small_networks

from diffai_jax.branching import Settings, search
from diffai_jax.branching.decisions import neurons_of
from diffai_jax.regions import L2, Bounds, linear

SETTINGS = Settings(seconds=60, batch=8, few_inputs=0)
RADIUS = np.float32(0.5)
_COUNT = 16


def ball(images):
  return Bounds(images - RADIUS, images + RADIUS)


def spec_of(rows, offsets):
  """A spec of each image's own row."""
  return linear(
      np.asarray(rows, np.float32)[:, None],
      np.asarray(offsets, np.float32)[:, None],
  )


def problem(seed):
  """A network, images, rows z_0 - z_1 and z_2 - z_0, and their maxima."""
  weights = small_networks.random_weights(seed)
  rng = np.random.default_rng(seed)
  points = rng.uniform(-1, 1, (2, 4)).astype(np.float32)
  rows = np.array([[1, -1, 0], [-1, 0, 1]], np.float32)
  largest = np.array([
      small_networks.largest(weights, x - RADIUS, x + RADIUS, row)
      for x, row in zip(points, rows)
  ])
  return weights, points, rows, largest


@pytest.mark.parametrize("seed", range(_COUNT // 2))
def test_verdicts_are_those_of_a_milp(seed):
  """Right below and right above the maximum, of two images in one pool."""
  weights, images, rows, largest = problem(seed)
  graph = small_networks.graph_of(weights)
  rng = np.random.default_rng(seed)
  gaps = np.array([-1, 1]) * rng.uniform(0.003, 0.1, 2) * (1 + abs(largest))
  found = search(
      graph, images, ball(images), spec_of(rows, gaps - largest), SETTINGS
  )
  assert found.verified.tolist() == [True, False]
  assert found.falsified.tolist() == [False, True]
  assert found.bound[0] < 0 <= found.bound[1]
  # The bound of what is proved is above the truth; the point is in the region.
  assert gaps[0] <= found.bound[0]
  point = found.points[1]
  assert np.all(abs(point - images[1]) <= RADIUS * (1 + 1e-6))
  _, output = small_networks.run(weights, point[None].astype(float))
  assert output[0] @ rows[1] + gaps[1] - largest[1] > 0


def test_attacks_end_at_a_maximum_that_gradients_pass_by():
  """The last step of a walk along gradients is a hundredth of the region."""
  for seed in range(4):
    weights, images, rows, largest = problem(seed)
    found = search(
        small_networks.graph_of(weights), images, ball(images),
        spec_of(rows, 1e-4 - largest), SETTINGS,
    )
    assert found.falsified.all() and not found.subdomains.any()


@pytest.mark.parametrize("splits", ("boxes", "nothing", "nothing in a ball"))
def test_networks_without_a_relu(splits):
  """The maximum is 0.5: below it, at it, where rounding leaves it open, above."""
  weights = [(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))]
  images, rows = np.zeros((3, 4), np.float32), np.eye(4)[:3]
  found = search(
      small_networks.graph_of(weights), images,
      ball(images) if splits != "nothing in a ball" else L2(RADIUS, None),
      spec_of(rows, [-0.6, -0.5, -0.4]),
      dataclasses.replace(SETTINGS, seconds=2),
      leaves=(lambda *_: None) if splits == "nothing" else None,
  )
  assert found.verified.tolist() == [True, False, False]
  assert found.falsified.tolist() == [False, False, True]
  assert found.subdomains.any() == (splits == "boxes")


def test_few_subdomains_of_few_relus():
  """Of one that takes 115,000 with ten steps of α and β after each split."""
  weights = small_networks.random_weights(38, (10, 30, 30, 5))
  rng = np.random.default_rng(38)
  image = rng.uniform(-1, 1, 10).astype(np.float32)
  radius = np.float32(0.6 * 0.4**0.5)
  largest = -0.05317414605538451  # Of z_0 - z_4; scipy's milp takes 11 s.
  region = Bounds(image[None] - radius, image[None] + radius)
  spec = spec_of([[1, 0, 0, 0, -1]], [-0.01 - largest])
  found = search(
      small_networks.graph_of(weights), image[None], region, spec, SETTINGS
  )
  assert found.verified.all() and found.subdomains[0] < 20_000


def test_every_run_is_in_a_leaf_and_below_its_bound():
  """Leaves' signs cover all float32 runs, and no run is above its leaf."""
  weights, images, rows, largest = problem(39)
  graph = small_networks.graph_of(weights)
  neurons = neurons_of(graph)
  leaves = []
  found = search(
      graph, images, ball(images), spec_of(rows, -largest - [0.02, 100]),
      SETTINGS, leaves=lambda _, some, bounds: leaves.extend(
          zip(some.image, some.decisions, bounds)
      ),
  )
  assert found.verified[0] and len(leaves) > 8
  points = np.random.default_rng(0).uniform(-0.5, 0.5, (20000, 4))
  points = (images[0] + points).clip(images[0] - RADIUS, images[0] + RADIUS)
  values, outputs = small_networks.run(weights, points.astype(np.float32))
  assert values.shape[1] == neurons.count
  asked = outputs.astype(float) @ rows[0] - np.float32(largest[0] + 0.02)
  covered = np.zeros(len(points), bool)
  for image, decisions, bound in leaves:
    if image:
      continue
    decided = decisions[decisions != 0]
    inside = np.all(values[:, abs(decided) - 1] * np.sign(decided) >= 0, axis=1)
    covered |= inside
    assert bound < 0 and np.all(asked[inside] <= bound)
  assert covered.all()


def test_rows_of_a_group_prove_it_together():
  """min(x, -x) < 0.1: each row on one side of 0."""
  eye = np.array([[1, -1]], np.float32)
  weights = [
      (eye, np.zeros(2, np.float32)),
      (np.array([[1, -1], [-1, 1]], np.float32), np.zeros(2, np.float32)),
  ]
  image = np.zeros((1, 1), np.float32)
  spec = linear(np.eye(2, dtype=np.float32), np.float32([-0.1, -0.1]), (0, 0))
  graph = small_networks.graph_of(weights)
  settings = dataclasses.replace(SETTINGS, root_steps=0)
  found = search(graph, image, Bounds(image - 1, image + 1), spec, settings)
  assert found.verified[0] and found.subdomains[0] >= 2
  spec = linear(np.eye(2, dtype=np.float32), np.float32([0.1, 0.1]), (0, 0))
  found = search(graph, image, Bounds(image - 1, image + 1), spec, settings)
  assert found.falsified[0] and abs(found.points[0]) < 0.1


@pytest.mark.parametrize("rounds", [1, 3])
def test_an_interrupt_keeps_what_is_known(rounds):
  """What was under way is not taken for proved."""
  weights, images, rows, largest = problem(39)
  states = []

  def progress(state):
    states.append(state)
    if len(states) == rounds:
      raise KeyboardInterrupt

  found = search(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, -largest - [0.02, 100]), SETTINGS, progress,
  )
  assert found.interrupted
  assert found.verified.tolist() == [False, True]
  assert 0 <= found.bound[0] < np.inf
  assert "1 open" in str(states[-1])


def test_no_time_and_no_memory_are_unknown():
  """Given up, with the bound reached, and never verified."""
  weights, images, rows, largest = problem(39)
  graph = small_networks.graph_of(weights)
  spec = spec_of(rows, -largest - [0.02, 100])
  for settings in (
      dataclasses.replace(SETTINGS, seconds=0),
      dataclasses.replace(SETTINGS, pool_mib=3e-4),
  ):
    found = search(graph, images, ball(images), spec, settings)
    assert not found.verified[0] and not found.falsified[0]
    assert 0 <= found.bound[0] < np.inf
