"""CROWN-IBP as a goal, and shrunk ReLUs, against NumPy, an example at a time."""

import functools

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import losses, nn, transformers
from diffai_jax.goals import Context, CROWN_IBP, active_goals
from diffai_jax.graph import record
from diffai_jax.objectives import ObjectiveError, parse
from diffai_jax.regions import Linf, labels
from diffai_jax.types import Mode
from diffai_jax.verification import methods

BATCH, SIZES = 3, (4, 6, 5, 3)
LABELS = np.array([0, 2, 1], np.int32)
_rng = np.random.default_rng(4)
LOWER = _rng.uniform(0, 0.6, (BATCH, SIZES[0]))
UPPER = LOWER + _rng.uniform(0, 0.4, (BATCH, SIZES[0]))
LAYERS = [
    (_rng.normal(size=pair), _rng.normal(size=pair[1]) / 4)
    for pair in zip(SIZES, SIZES[1:])
]


def network(layers, value):
  """Dense layers with ReLUs between them."""
  *hidden, last = layers
  for layer in hidden:
    value = transformers.relu(transformers.dense(value, *layer))
  return transformers.dense(value, *last)


logits_of = jax.jit(network)


def context(epoch=0.0):
  return Context(None, jnp.asarray(LABELS), jnp.asarray(epoch))


def computed(goal, layers, lower=LOWER, upper=UPPER):
  """Loss, margins and what is verified, of each example."""
  dtype = layers[0][0].dtype
  return _computed(goal, layers, lower.astype(dtype), upper.astype(dtype))


@functools.partial(jax.jit, static_argnums=0)
def _computed(goal, layers, lower, upper):
  output = network(layers, goal.abstract(lower, upper, context()))
  arguments = output, jnp.asarray(LABELS), context()
  return (
      goal.loss(*arguments), goal.margins(*arguments),
      goal.accuracies(*arguments)["verified"],
  )


# Independent computations of one example, in float64.


def affine_interval(kernel, bias, low, high):
  kept, turned = np.maximum(kernel, 0), np.minimum(kernel, 0)
  return low @ kept + high @ turned + bias, high @ kept + low @ turned + bias


def intervals(layers, low, high, shrink=1.0):
  """Bounds of what flows into each ReLU, and of the outputs."""
  found = []
  for number, (kernel, bias) in enumerate(layers):
    if number:
      unstable = (low < 0) & (high > 0)
      high = np.maximum(high, 0) * np.where(unstable, shrink, 1)
      low = np.maximum(low, 0)
    low, high = affine_interval(kernel, bias, low, high)
    found.append((low, high))
  return found


def walked(layers, bounds, low, high, row, offset):
  """The upper bound of ⟨row, z⟩ + offset, by ReLUs' lines."""
  for (kernel, bias), inner in zip(layers[::-1], [*bounds[-2::-1], None]):
    offset, row = offset + row @ bias, kernel @ row
    if inner is None:
      return offset + np.sum(np.maximum(row * low, row * high))
    pulled = np.zeros_like(row)
    for i, (l, u) in enumerate(zip(*inner)):
      if l >= 0:
        pulled[i] = row[i]
      elif u > 0 and row[i] > 0:
        pulled[i] = row[i] * u / (u - l)
        offset -= row[i] * u * l / (u - l)
      elif u > 0 and u > -l:
        pulled[i] = row[i]
    row = pulled


def margins(layers, beta, shrink=1.0):
  """β·CROWN-IBP + (1 - β)·IBP, [B, K]."""
  found = np.zeros((BATCH, SIZES[-1]))
  for b, y in enumerate(LABELS):
    bounds = intervals(layers, LOWER[b], UPPER[b], shrink)
    low, high = bounds[-1]
    for k in set(range(SIZES[-1])) - {y}:
      row = np.zeros(SIZES[-1])
      row[k], row[y] = 1, -1
      linear = walked(layers, bounds, LOWER[b], UPPER[b], row, 0.0)
      found[b, k] = beta * linear + (1 - beta) * (high[k] - low[y])
  return found


def fused(layers, beta):
  """log(β·S̄ + (1 - β)·Σ exp(u_k)), [B]."""
  found = np.zeros(BATCH)
  for b, y in enumerate(LABELS):
    bounds = intervals(layers, LOWER[b], UPPER[b])
    low, high = bounds[-1]
    row, offset, sum_of_ends = np.zeros(SIZES[-1]), 1.0, 1.0
    for k in set(range(SIZES[-1])) - {y}:
      l, u = low[k] - high[y], high[k] - low[y]
      slope = (np.exp(u) - np.exp(l)) / (u - l)
      row[k], row[y] = slope, row[y] - slope
      offset += np.exp(l) - slope * l
      sum_of_ends += np.exp(u)
    linear = walked(layers, bounds, LOWER[b], UPPER[b], row, offset)
    found[b] = np.log(beta * linear + (1 - beta) * sum_of_ends)
  return found


def cross_entropy(found):
  return np.log(np.sum(np.exp(found), axis=1))


@pytest.mark.parametrize("beta", [1, 0.3])
def test_margins_and_loss_are_crown_ibps(float64, beta):
  loss, found, verified = computed(CROWN_IBP(beta), LAYERS)
  expected = margins(LAYERS, beta)
  np.testing.assert_allclose(found, expected, atol=1e-9)
  np.testing.assert_allclose(loss, cross_entropy(expected), atol=1e-9)
  np.testing.assert_array_equal(verified, (expected <= 0).all(axis=1))


def test_a_fused_loss_is_one_rows_bound(float64):
  """Margins are those without fusion; a loss below log 2 verifies."""
  beta = 0.3
  small = [(kernel / 4, bias / 4) for kernel, bias in LAYERS]
  for layers in (LAYERS, small):
    loss, found, _ = computed(CROWN_IBP(beta, 1), layers)
    np.testing.assert_allclose(loss, fused(layers, beta), atol=1e-9)
    np.testing.assert_allclose(found, margins(layers, beta), atol=1e-9)
  layers = small[:-1] + [(0 * small[-1][0], np.array([5.0, 0.0, 4.5]))]
  _, _, verified = computed(CROWN_IBP(beta, 1), layers)
  np.testing.assert_array_equal(verified, [True, False, False])


def test_no_exponential_overflows():
  huge = [(300 * kernel, bias) for kernel, bias in LAYERS]
  loss, _, _ = computed(CROWN_IBP(1, 1), jax.tree.map(np.float32, huge))
  assert np.isfinite(loss).all() and (loss > 1e4).all()


def test_points_of_the_box_lose_no_more_than_the_bounds():
  """Corners, random points, and the ends of a steep ascent."""
  points = _rng.uniform(LOWER, UPPER, (500, BATCH, SIZES[0]))
  corner = np.where(_rng.random(points.shape) < 0.5, LOWER, UPPER)
  points = np.concatenate([points, corner]).astype(np.float32)
  layers = jax.tree.map(np.float32, LAYERS)
  logits = logits_of(layers, points.reshape(-1, SIZES[0]))
  logits = np.asarray(logits).reshape(len(points), BATCH, -1)
  own = np.take_along_axis(logits, LABELS[None, :, None], axis=2)
  reached = np.max(logits - own, axis=0)
  lost = np.max([cross_entropy(m) for m in logits - own], axis=0)
  for goal in (CROWN_IBP(), CROWN_IBP(1, 1)):
    loss, found, _ = computed(goal, layers)
    assert (np.asarray(found) >= reached - 1e-4).all()
    assert (np.asarray(loss) >= lost - 1e-4).all()


def test_gradients_flow_through_bounds_and_lines(float64):
  """Central differences of the NumPy computation, in a few directions."""
  goal = CROWN_IBP(0.7, 1)
  gradient = jax.jit(
      jax.grad(lambda layers: computed(goal, layers)[0].sum())
  )(LAYERS)
  for seed in range(4):
    rng = np.random.default_rng(seed)
    way = [tuple(rng.normal(size=a.shape) for a in pair) for pair in LAYERS]
    moved = lambda step: [
        tuple(a + step * d for a, d in zip(pair, ways))
        for pair, ways in zip(LAYERS, way)
    ]
    ends = fused(moved(1e-6), 0.7), fused(moved(-1e-6), 0.7)
    slope = (ends[0] - ends[1]).sum() / 2e-6
    inner = sum(
        np.sum(d * np.asarray(g)) for ways, pair in zip(way, gradient)
        for d, g in zip(ways, pair)
    )
    np.testing.assert_allclose(inner, slope, rtol=1e-5)


def test_an_empty_box_is_its_point(float64):
  _, found, _ = computed(CROWN_IBP(), LAYERS, LOWER, LOWER)
  logits = np.asarray(logits_of(LAYERS, LOWER))
  own = np.take_along_axis(logits, LABELS[:, None], axis=1)
  np.testing.assert_allclose(found, logits - own, atol=1e-9)


@pytest.mark.parametrize("text, expected", [
    ("CROWN_IBP", ["CROWN_IBP"]),
    ("CROWN_IBP(0)", ["Box"]),
    ("Mix(Point, CROWN_IBP(1 - Lin(0, 1, 20, 5)), 0.5)",
     ["Mix(Point, CROWN_IBP(1 - Lin(0, 1, 20, 5)), 0.5)",
      "Mix(Point, Box, 0.5)"]),
    ("Sub(0.5, CROWN_IBP(Until(9, 0, 1), fusion=1))",
     ["Sub(0.5, Box)", "Sub(0.5, CROWN_IBP(Until(9, 0, 1), 1))"]),
])
def test_nothing_is_walked_while_beta_is_0(text, expected):
  epochs = jnp.arange(0.0, 40.0)
  keys = jax.random.split(jax.random.key(0), len(epochs))
  found, _ = active_goals(parse(text), epochs, keys)
  assert [str(goal) for goal in found] == sorted(
      expected, key=lambda goal: [str(g) for g in found].index(goal)
  )
  assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize("text, message", [
    ("CROWN_IBP(Lin(0, 2, 9))", "CROWN_IBP's beta"),
    ("CROWN_IBP(1, 0.5)", "fusion must be 0 or 1"),
    ("Shrunk(0, Box)", "factor must be above 0"),
    ("Shrunk(1.1, Box)", "factor must be above 0 and at most 1"),
    ("Shrunk(0.8, Mix(Point, ZSwitch, 1))", "ZSwitch has switch"),
])
def test_what_is_out_of_range_is_refused(text, message):
  with pytest.raises(ObjectiveError, match=message):
    parse(text)


# Shrunk ReLUs.


def box_margins(shrink):
  found = np.zeros((BATCH, SIZES[-1]))
  for b, y in enumerate(LABELS):
    low, high = intervals(LAYERS, LOWER[b], UPPER[b], shrink)[-1]
    found[b] = high - low[y]
    found[b, y] = 0
  return found


@pytest.mark.parametrize("text, expected", [
    ("Shrunk(0.8, Box)", lambda: box_margins(0.8)),
    ("Shrunk(1, Box)", lambda: box_margins(1)),
    ("Sub(1, Shrunk(0.5, CROWN_IBP))", lambda: margins(LAYERS, 1, 0.5)),
])
def test_shrunk_relus(float64, text, expected):
  _, found, _ = computed(parse(text), LAYERS)
  np.testing.assert_allclose(found, expected(), atol=1e-9)
  assert np.max(np.abs(expected() - box_margins(0.9))) > 1e-2


def test_a_shrunk_part_leaves_the_others_alone(float64):
  """Points, and elements without shrunk ReLUs, of the same run."""
  goal = parse("Mix(Mix(Point, Box, 0.5), Shrunk(0.8, Box), 0.5)")
  loss, _, _ = computed(goal, LAYERS)
  logits = (LOWER + UPPER) / 2
  for number, (kernel, bias) in enumerate(LAYERS):
    logits = (np.maximum(logits, 0) if number else logits) @ kernel + bias
  point = logits - np.take_along_axis(logits, LABELS[:, None], axis=1)
  parts = [cross_entropy(m) for m in (point, box_margins(1), box_margins(0.8))]
  np.testing.assert_allclose(
      loss, np.tensordot([0.25, 0.25, 0.5], parts, 1), atol=1e-9
  )


def test_an_image_network_has_the_bounds_that_certify():
  """But for rounding, and the better of them and intervals."""
  net = nn.Sequential((
      nn.Normalize((0.4,), (0.5,)), nn.Conv2D(3, 3, 2, 1), nn.ReLU(),
      nn.Conv2D(4, 2), nn.ReLU(), nn.Flatten(),
      nn.Linear(SIZES[-1]),
  ))
  images = np.random.default_rng(0).uniform(size=(BATCH, 6, 6, 1))
  images = images.astype(np.float32)
  variables = drawn_weights.variables(net, images.shape[1:])
  region, goal = Linf(0.05), CROWN_IBP()
  forward = lambda value: net.apply(variables, value, Mode.TRAIN)

  @jax.jit
  def both(images):
    output = forward(goal.abstract(*region.bounds(images), context()))
    found = goal.margins(output, jnp.asarray(LABELS), context())
    spec = labels(LABELS, SIZES[-1])
    graph = record(forward, images.shape[1:])
    bound = methods.CROWN_IBP().bound(graph, images, region, spec)
    return jnp.minimum(found, losses.margins(output.value, LABELS)), bound

  found, bound = both(images)
  others = np.arange(SIZES[-1]) != LABELS[:, None]
  np.testing.assert_allclose(
      np.asarray(found)[others].reshape(BATCH, -1), bound, atol=1e-4
  )
