"""CROWN and its family as methods: what they prove, and that none loses."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import diffai_jax as dj
from diffai_jax import transformers
from diffai_jax.graph import Builder
from diffai_jax.regions import linear
from diffai_jax.types import UsageError
from diffai_jax.verification.methods import parse

SIZES = (4, 10, 8, 3)


def case(seed):
  """A random chain in float64, its graph, images and a spec of 3 rows."""
  rng = np.random.default_rng(seed)
  weights = [
      (rng.normal(size=(n, m)) / np.sqrt(n), rng.normal(size=m) / 4)
      for n, m in zip(SIZES, SIZES[1:])
  ]
  builder = Builder((SIZES[0],), np.float64)
  value = builder.input
  for number, (kernel, bias) in enumerate(weights):
    value = transformers.relu(value) if number else value
    value = transformers.dense(value, kernel, bias)
  images = rng.uniform(0.3, 0.7, (2, SIZES[0]))
  return weights, builder.graph(value), images, rng.normal(size=(3, SIZES[-1]))


@functools.partial(jax.jit, static_argnums=0)
def bounded(method, graph, images, rows):
  spec = linear(rows, jnp.zeros(len(rows)))
  return method.bound(graph, images, dj.Linf(0.2), spec)


@functools.partial(jax.jit, static_argnums=0)
def inner(method, graph, images):
  """Bounds of the input and of every result."""
  return method.inner(graph, images, dj.Linf(0.2)).bounds


def lp_bound(weights, low, high, row, bounds):
  """The largest row·z over the triangle relaxation of each ReLU, by an LP."""
  sizes = [len(low), *(n for _, b in weights[:-1] for n in (len(b),) * 2)]
  starts = np.cumsum([0, *sizes])
  count = starts[-1]
  upper_rows, upper_ends, equal_rows, equal_ends = [], [], [], []
  limits = list(zip(low, high))
  place = 0  # Where the values that flow into the next layer are.
  for (kernel, bias), (l, u) in zip(weights[:-1], bounds):
    before, after = place + 1, place + 2
    for j in range(len(bias)):
      line = np.zeros(count)
      line[starts[place]:starts[place + 1]] = kernel[:, j]
      line[starts[before] + j] = -1
      equal_rows.append(line)
      equal_ends.append(-bias[j])
      if l[j] < 0 < u[j]:
        below, above = np.zeros(count), np.zeros(count)
        below[starts[before] + j], below[starts[after] + j] = 1, -1
        slope = u[j] / (u[j] - l[j])
        above[starts[before] + j], above[starts[after] + j] = -slope, 1
        upper_rows += [below, above]
        upper_ends += [0, -slope * l[j]]
      else:
        line = np.zeros(count)
        line[starts[after] + j] = 1
        line[starts[before] + j] = -1 if l[j] >= 0 else 0
        equal_rows.append(line)
        equal_ends.append(0)
    limits += [*zip(l, u), *((max(a, 0), max(b, 0)) for a, b in zip(l, u))]
    place = after
  kernel, bias = weights[-1]
  cost = np.zeros(count)
  cost[starts[place]:] = -(kernel @ row)
  found = linprog(
      cost, np.array(upper_rows) if upper_rows else None, upper_ends or None,
      np.array(equal_rows), equal_ends, limits,
  )
  assert found.status == 0, found.message
  return row @ bias - found.fun


def test_alpha_comes_within_a_percent_of_the_lp(float64):
  gaps, crown_gaps = [], []
  for seed in range(7):
    weights, graph, images, rows = case(seed)
    known = inner(parse("CROWN"), graph, images)
    crown = np.asarray(bounded(parse("CROWN"), graph, images, rows))
    alpha = np.asarray(bounded(parse("AlphaCROWN(100)"), graph, images, rows))
    # What flows into ReLUs: after each dense layer but the last.
    into = [known[n] for n in (1, 3)]
    for number, image in enumerate(images):
      bounds = [(np.asarray(l)[number], np.asarray(u)[number])
                for l, u in into]
      for row, own, first in zip(rows, alpha[number], crown[number]):
        best = lp_bound(weights, image - 0.2, image + 0.2, row, bounds)
        assert best <= own + 1e-7  # The LP is the best of all lines.
        gaps.append((own - best) / max(1e-9, abs(best)))
        crown_gaps.append((first - best) / max(1e-9, abs(best)))
  assert np.mean(np.array(gaps) < 0.01) > 0.9
  assert np.mean(gaps) < 0.2 * np.mean(crown_gaps)


def test_inner_neurons_come_within_a_percent_of_the_lp(float64):
  gaps, crown_gaps = [], []
  for seed in range(4):
    weights, graph, images, _ = case(seed)
    known = inner(parse("AlphaCROWN(1, Box, 100)"), graph, images)
    crown = inner(parse("CROWN"), graph, images)
    _, size = weights[1]
    for number, image in enumerate(images):
      first = [np.asarray(b)[number] for b in known[1]]
      low, high = (np.asarray(b)[number] for b in known[3])
      least, most = (np.asarray(b)[number] for b in crown[3])
      for neuron in range(len(size)):
        row = np.eye(len(size))[neuron]
        for sign, own, cheap in ((1, high, most), (-1, -low, -least)):
          best = lp_bound(
              weights[:2], image - 0.2, image + 0.2, sign * row, [first]
          )
          assert best <= own[neuron] + 1e-7
          if least[neuron] < 0 < most[neuron]:
            gaps.append((own[neuron] - best) / max(1e-9, abs(best)))
            crown_gaps.append((cheap[neuron] - best) / max(1e-9, abs(best)))
  assert np.mean(np.array(gaps) < 0.01) > 0.9
  assert np.mean(gaps) < 0.2 * np.mean(crown_gaps)


def test_a_stronger_method_is_never_worse(float64):
  chain = (
      "Box", "CROWN_IBP", "CROWN", "AlphaCROWN(100)",
      "AlphaCROWN(100, Box, 20)",
  )
  for seed in range(3):
    _, graph, images, rows = case(seed)
    bounds = [np.asarray(bounded(parse(m), graph, images, rows)) for m in chain]
    for weak, strong in zip(bounds, bounds[1:]):
      assert np.all(strong <= weak + 1e-12)
    means = [bound.mean() for bound in bounds]
    assert means[0] > means[2] > means[3] > means[4]
  first = bounded(parse("CROWN(HBox)"), graph, images, rows)
  assert np.all(first <= bounds[1] + 1e-12)


def test_methods_certify_from_the_front_door():
  rng = np.random.default_rng(0)
  network = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(16), nn.relu,
                           nn.Dense(3)])
  images = rng.uniform(size=(6, 5)).astype(np.float32)
  variables = jax.jit(network.init)(jax.random.key(0), images)
  labels = np.asarray(jax.jit(network.apply)(variables, images)).argmax(1)
  methods = ["Box", "CROWN_IBP", "CROWN", "AlphaCROWN(5)"]
  found = dj.certify(
      (network, variables), images, labels, dj.Linf(0.02), methods
  )
  margins = [found.margins[m] for m in methods]
  for weak, strong in zip(margins, margins[1:]):
    assert np.all(strong >= weak - 1e-5)
  assert found.verified["CROWN"].sum() >= found.verified["Box"].sum()
  assert not found.failed


def test_networks_that_are_no_graph_are_refused():
  with pytest.raises(UsageError, match="CROWN walks a graph backwards"):
    parse("CROWN").bound(lambda value: value, None, dj.Linf(0.1), None)
