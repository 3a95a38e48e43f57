"""Splits of the input's box: verdicts of a MILP, halves that cover."""

import dataclasses
import importlib

import numpy as np
import pytest
import small_networks
from test_search import SETTINGS, ball, problem, spec_of

from diffai_jax.branching import input_splits, search
from diffai_jax.regions import linear

_FEW = dataclasses.replace(SETTINGS, few_inputs=4, few_relus=0)


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_a_milp(seed):
  """A little below and above the maximum, of two images at once."""
  weights, images, rows, largest = problem(seed)
  gaps = np.array([-0.1, 0.02]) * (1 + abs(largest))
  told = []
  found = search(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, gaps - largest), _FEW,
      decided=lambda numbers, _: told.extend(numbers),
  )
  assert found.verified.tolist() == [True, False]
  assert found.falsified.tolist() == [False, True]
  assert gaps[0] <= found.bound[0] < 0
  assert sorted(told) == [0, 1]
  _, output = small_networks.run(weights, found.points[1:].astype(float))
  assert output[0] @ rows[1] + gaps[1] - largest[1] > 0


@pytest.mark.parametrize("few_relus, fewest_inputs, way", [
    (12, 3, "InputSplits"), (13, 3, "ReluSplits"), (13, 4, "InputSplits"),
])
def test_few_relus_are_split_before_inputs_are(few_relus, fewest_inputs, way):
  weights, images, rows, _ = problem(0)
  chosen = importlib.import_module("diffai_jax.branching.search")._search
  run = chosen(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, [0, 0]), dataclasses.replace(
          _FEW, few_relus=few_relus, fewest_inputs=fewest_inputs
      ),
      lambda state: None, None,
  )
  assert type(run).__name__ == way


def test_bounds_of_boxes_hold():
  """No point of a box is above its bound, and the bound is attained nearly."""
  weights, images, rows, _ = problem(0)
  run = input_splits.InputSplits(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, [0, 0]), _FEW, lambda state: None,
  )
  rng = np.random.default_rng(0)
  low = images[[0, 1, 0]] - np.float32(0.02)
  boxes = {
      "image": np.array([0, 1, 0]), "group": np.zeros(3, int), "low": low,
      "high": low + np.float32([[0.04] * 4, [0.04] * 4, [0.04, 0, 0, 0]]),
  }
  found = run._bounded(boxes)
  for n, image in enumerate(boxes["image"]):
    share = rng.uniform(size=(2000, 4))
    points = low[n] + share * (boxes["high"][n] - low[n])
    values = small_networks.run(weights, points)[1] @ rows[image]
    bound, slopes = found["bounds"][n, 0], found["slopes"][n, 0]
    assert values.max() <= bound <= values.max() + 0.1
    assert found["value"][n] <= bound
    best = np.where(slopes > 0, boxes["high"][n], low[n])
    line = bound - np.abs(best - points) @ np.abs(slopes)
    assert np.all(values <= line + 1e-6)


def test_halves_cover_the_box_and_meet():
  """At a number of the type; what has no number inside stays what it is."""
  rng = np.random.default_rng(0)
  low = rng.normal(size=(50, 3)).astype(np.float32)
  high = low + rng.uniform(0, 1, (50, 3)).astype(np.float32)
  high[0] = low[0]
  high[1] = np.nextafter(low[1], np.float32(np.inf))
  weight = rng.uniform(size=(50, 3)).astype(np.float32)
  boxes = {"low": low, "high": high, "weight": weight, "image": np.arange(50)}
  halves = input_splits._halved(boxes)
  first, second = (
      {k: v[part] for k, v in halves.items()}
      for part in (slice(50), slice(50, 100))
  )
  for n in range(50):
    assert first["image"][n] == second["image"][n] == n
    if n < 2:
      same = (first["low"][n] == low[n]) & (second["high"][n] == high[n])
      assert same.all() and np.all(second["low"][n] == low[n])
      assert np.all(first["high"][n] == high[n])
      continue
    edge = weight[n].argmax()
    assert first["high"][n, edge] == second["low"][n, edge]
    assert low[n, edge] < first["high"][n, edge] < high[n, edge]
    others = np.arange(3) != edge
    for part in (first, second):
      assert np.all(part["low"][n, others] == low[n, others])
      assert np.all(part["high"][n, others] == high[n, others])
      assert part["weight"][n, edge] == weight[n, edge] / 2
    assert first["low"][n, edge] == low[n, edge]
    assert second["high"][n, edge] == high[n, edge]


def test_an_interrupt_proves_nothing():
  weights, images, rows, largest = problem(39)

  def progress(state):
    raise KeyboardInterrupt

  found = search(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, -largest - 0.001), _FEW, progress,
  )
  assert found.interrupted and not found.verified.all()
  assert np.all((found.bound < 0) | ~found.verified)


def test_all_rows_of_a_group_count():
  """A group is broken where all of its rows are."""
  weights, images, rows, largest = problem(0)
  graph = small_networks.graph_of(weights)
  both = np.stack([rows[0], -rows[0]])
  spec = linear(both, np.float32([-100, 100]), (0, 0))
  found = search(graph, images[:1], ball(images[:1]), spec, _FEW)
  assert found.verified[0]
  spec = linear(both, np.float32([100, 100]), (0, 0))
  found = search(graph, images[:1], ball(images[:1]), spec, _FEW)
  assert found.falsified[0]
