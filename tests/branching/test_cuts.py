"""Subdomains that are cut: what breaks a row stays inside, and verdicts are true."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
from test_search import SETTINGS, ball, problem, spec_of

from diffai_jax import transformers
from diffai_jax.branching import relu_splits, search
from diffai_jax.branching.decisions import neurons_of
from diffai_jax.graph import Builder
from diffai_jax.regions import L2, Bounds

CUTS = dataclasses.replace(SETTINGS, few_relus=0)


@pytest.mark.parametrize("seed", range(4))
def test_verdicts_are_those_of_a_milp(seed):
  """Right below and right above the maximum, of two images in one pool."""
  weights, images, rows, largest = problem(seed)
  gaps = np.array([-0.004, 0.004]) * (1 + abs(largest))
  found = search(
      small_networks.graph_of(weights), images, ball(images),
      spec_of(rows, gaps - largest), CUTS,
  )
  assert found.verified.tolist() == [True, False]
  assert found.falsified.tolist() == [False, True]
  # Of runs that break nothing, no more is known than that.
  assert -np.finfo(np.float32).tiny <= found.bound[0] < 0 <= found.bound[1]


def test_nothing_is_proved_at_the_maximum():
  for seed in range(4):
    weights, images, rows, largest = problem(seed)
    found = search(
        small_networks.graph_of(weights), images, ball(images),
        spec_of(rows, 1e-5 - largest), dataclasses.replace(
            CUTS, seconds=1, attack_steps=0,
        ),
    )
    assert not found.verified.any()


def test_cuts_save_subdomains():
  weights = small_networks.random_weights(0, (40, 24, 24, 3))
  image = np.random.default_rng(0).uniform(-1, 1, (1, 40)).astype(np.float32)
  radius, largest = np.float32(0.15), 2.641723601775784  # By scipy's milp.
  counts = []
  for settings in (dataclasses.replace(CUTS, cuts=False), CUTS):
    found = search(
        small_networks.graph_of(weights), image,
        Bounds(image - radius, image + radius),
        spec_of([[1, -1, 0]], [-0.02 - largest]), settings,
    )
    assert found.verified.all()
    counts.append(found.subdomains[0])
  assert counts[1] < 0.6 * counts[0]


def _residual(rng):
  """Windows of neurons meet, and rows on the last ones are dense."""
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 2
  builder = Builder((7, 7, 2), np.float32)
  x = transformers.conv(builder.input, draw(3, 3, 2, 4), draw(4), padding=1)
  x = transformers.relu(x)
  y = transformers.conv(x, draw(3, 3, 4, 4) / 2, draw(4), padding=1)
  x = transformers.relu(transformers.add(x, y))
  x = transformers.reshape(x, (int(np.prod(x.shape[1:])),))
  return builder.graph(transformers.dense(x, draw(x.shape[1], 2), draw(2)))


def _case(kind):
  """(graph, the region around images, image, row)."""
  rng = np.random.default_rng(3)
  if kind == "images":
    graph = _residual(rng)
    image = rng.uniform(0.2, 0.8, (1,) + graph.input_shape)
    row = rng.normal(size=(1,) + graph.output_shape).astype(np.float32)
  else:
    weights, images, rows, _ = problem(39)
    graph, image, row = small_networks.graph_of(weights), images[:1], rows[:1]
  image = image.astype(np.float32)
  radius = np.float32(0.008 if kind == "images" else 0.5)
  region = lambda image: Bounds(image - radius, image + radius)
  if kind == "ball":
    region = lambda image: L2(0.5, None)
  return graph, region, image, row


@jax.jit
def _slope(graph, image, row):
  return jax.grad(lambda x: jnp.vdot(row, graph(x)))(image)


@jax.jit
def _projected(region, points, image):
  return region.project(points, jnp.broadcast_to(image, points.shape))


@jax.jit
def _run(graph, points):
  """All neurons that flow into ReLUs, [P, n], and outputs [P, K]."""
  results = graph.results(points)
  outputs = results[graph.outputs[0]].reshape(len(points), -1)
  return neurons_of(graph).flat(results), outputs


def _points(graph, region, image, row, rng, count=50_000):
  """Points from where the row is large to where it is small, in float32."""
  low, high = map(np.asarray, region.bounds(image))
  slope = np.asarray(_slope(graph, image, row))
  shape = (count,) + image.shape[1:]
  share = rng.uniform(0, 1, (count,) + (1,) * (image.ndim - 1))
  flips = rng.uniform(size=shape) < share
  sign = np.where(flips, -1, 1) * np.sign(slope) * rng.uniform(0.5, 1, shape)
  points = (low + high) / 2 + (high - low) / 2 * sign
  points = points.astype(np.float32)
  return np.asarray(_projected(region, points, image))


@pytest.mark.parametrize("kind", ("dense", "images", "ball"))
def test_runs_that_break_a_row_are_inside(kind):
  """Before a split and after some, of points where the row is large."""
  graph, around, image, row = _case(kind)
  neurons = neurons_of(graph)
  points = _points(
      graph, around(image), image, row, np.random.default_rng(0)
  )
  values, outputs = map(np.asarray, _run(graph, points))
  asked = outputs.astype(float) @ row.reshape(-1)
  offset = -np.float32(np.quantile(asked, 0.98))
  asked += float(offset)
  # The image twice: others search two, with the same programs.
  twice = image.repeat(2, axis=0)
  run = relu_splits.ReluSplits(
      graph, twice, around(twice),
      spec_of(row.repeat(2, axis=0), [offset] * 2),
      dataclasses.replace(CUTS, attack_steps=0), lambda state: None, None,
  )
  breaks = asked > 1e-4
  values, asked = values[breaks], asked[breaks]
  run.begin()
  run.falsifier.look_at = lambda *_: None
  places = run._root.places[0]
  is_one, narrower = places < neurons.count, 0
  at = values[:, places[is_one]]
  for _ in range(4):
    some, _, _ = run.table.take(np.arange(min(8, run.table.size)))
    widths = some.high - some.low
    cut, bound, _ = run._rounds.cut(some, 10, 3)
    for n, decisions in enumerate(cut.decisions):
      decided = decisions[decisions != 0]
      own = np.all(values[:, abs(decided) - 1] * np.sign(decided) >= 0, axis=1)
      least, most = cut.low[n, is_one], cut.high[n, is_one]
      assert np.all(asked[own] <= bound[n])
      is_in = ((least <= at) & (at <= most)).all(axis=1)
      assert is_in[own].all()
      narrower += np.sum(cut.high[n] - cut.low[n] < 0.98 * widths[n])
    run.table.add(cut, np.maximum(bound, 0), False)
    run.round()
  assert breaks.sum() > 100 and narrower > 0
