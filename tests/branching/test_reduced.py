"""Networks that are reduced to their open neurons have the bounds that they had."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_networks
from test_proofs import residual_graph
from test_search import ball, problem, spec_of

from diffai_jax.branching import bounding, roots, subdomains
from diffai_jax.branching.compiling import Compiling
from diffai_jax.branching.decisions import neurons_of
from diffai_jax.branching.reduced import can_reduce, reduced
from diffai_jax.branching.rounds import Rounds
from diffai_jax.graph import Builder
from diffai_jax.regions import L2
from diffai_jax.transformers import max_pool


def _cases(kind):
  """(graph, images, region, spec): two images, a row of each."""
  rng = np.random.default_rng(5)
  if kind == "residual":
    graph = residual_graph()
    images = rng.uniform(size=(2,) + graph.input_shape).astype(np.float32)
    rows = rng.normal(size=(2,) + graph.output_shape).astype(np.float32)
  else:
    weights, images, rows, _ = problem(39)
    graph = small_networks.graph_of(weights)
  region = L2(0.5, None) if kind == "ball" else ball(images)
  return graph, images, region, spec_of(rows, [0.5, -0.5])


def _start(graph, images, region, spec):
  """What a search begins with, without slopes: none of it is about them."""
  return roots.start(graph, images, region, spec, 0, 2, Compiling())


@jax.jit
def _reduced(graph, root, number):
  """The maps of one image, of its first group."""
  return reduced(graph, *(
      jax.tree.map(lambda leaf: leaf[number], part)
      for part in (
          root.images, root.bounds, root.places, root.rows[:, 0],
          root.offsets[:, 0],
      )
  ))


@pytest.mark.parametrize("kind", ("dense", "residual", "ball"))
def test_bounds_are_those_of_the_network(kind):
  """With random decisions, α and β, of two images in turn."""
  graph, images, region, spec = _cases(kind)
  began = _start(graph, images, region, spec)
  root, neurons = began.root, neurons_of(graph)
  rng, each = np.random.default_rng(0), 3
  places = root.places
  decisions = np.zeros((2 * each, 4), np.int32)
  ends = [np.repeat(end, each, axis=0) for end in (began.low, began.high)]
  low, high = map(np.array, ends)
  for n, row in enumerate(decisions):
    own = places[n // each]
    at = rng.choice(np.flatnonzero(own < neurons.count), 3, replace=False)
    sign = rng.choice([-1, 1], 3)
    row[:3] = (own[at] + 1) * sign
    low[n, at[sign > 0]], high[n, at[sign < 0]] = 0, 0
  some = subdomains.Subdomains(
      np.repeat(np.arange(2, dtype=np.int32), each),
      np.zeros(2 * each, np.int32), decisions,
      rng.uniform(size=(2 * each, 1, places.shape[1])).astype(np.float32),
      rng.uniform(size=(2 * each, 1, places.shape[1])).astype(np.float32),
      np.zeros(2 * each, np.float32), low, high,
  )
  root, some = jax.tree.map(jnp.asarray, (root, some))
  maps = [_reduced(graph, root, number) for number in range(2)]

  @jax.jit
  def rough(low, high, maps):
    own = subdomains.own_of(neurons, root, some)
    own = dataclasses.replace(own, low=low, high=high)
    bounds = bounding._rough(
        graph, neurons, own, some.group, maps, root.blocks
    )
    return bounds(some.alpha, some.beta)

  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *maps)
  found, expected = rough(low, high, stacked), rough(low, high, None)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  # Decisions, α and β matter: without them the bounds are others.
  assert np.abs(rough(*ends, stacked) - expected).max() > 1e-3


def test_open_neurons_run_as_in_the_network():
  """z = A·x + B·s + c at points of the region, s what their ReLUs give."""
  graph, images, region, spec = _cases("residual")
  root = _start(graph, images, region, spec).root
  neurons = neurons_of(graph)
  maps = jax.tree.map(np.asarray, _reduced(graph, root, 0))
  low, high = map(np.asarray, region.bounds(images))
  points = np.random.default_rng(1).uniform(low[:1], high[:1], (50,) + low.shape[1:])
  results = jax.jit(graph.results)(points.astype(np.float32))
  values = np.asarray(neurons.flat(results))
  own = root.places[0]
  inside = own < neurons.count
  found = np.where(inside, values[:, own.clip(max=neurons.count - 1)], 0)
  expected = (
      points.reshape(50, -1) @ maps.on_inputs.T
      + np.maximum(found, 0) @ maps.on_neurons.T + maps.constants
  )
  outputs = np.asarray(results[graph.outputs[0]]).reshape(50, -1)
  row = root.rows[0, 0].reshape(1, -1)
  rows = outputs @ row.T + root.offsets[0, 0]
  np.testing.assert_allclose(
      expected, np.concatenate([found, rows], axis=1), rtol=1e-4, atol=1e-4
  )


def test_what_is_not_piecewise_linear_is_not_reduced():
  builder = Builder((4, 4, 1), np.float32)
  graph = builder.graph(max_pool(builder.input, 2))
  assert not can_reduce(graph, 4, 1)
  weights, *_ = problem(0)
  assert can_reduce(small_networks.graph_of(weights), 4, 1)
  assert not can_reduce(small_networks.graph_of(weights), 10**6, 1)


@pytest.mark.parametrize("slots, each", ((1, 4), (3, 2), (5, 1)))
def test_slots_have_one_image_each(slots, each):
  """The most promising first, and each slot is filled from its first place."""
  rounds = Rounds.__new__(Rounds)
  rounds.slots, rounds.each = slots, each
  image = np.array([7, 7, 7, 2, 5, 5, 5, 5, 5])
  order = np.arange(100, 109)
  taken, positions = rounds.places_in_slots(order, image)
  assert len(set(positions.tolist())) == len(positions) > 0
  assert positions.max() < slots * each
  assert np.all(np.isin(taken, order[: len(taken)]) | (len(taken) < 9))
  of = dict(zip(order.tolist(), image.tolist()))
  by_slot = {}
  for number, position in zip(taken.tolist(), positions.tolist()):
    by_slot.setdefault(position // each, []).append((position % each, of[number]))
  for members in by_slot.values():
    assert len({image for _, image in members}) == 1
    assert [place for place, _ in members] == list(range(len(members)))
