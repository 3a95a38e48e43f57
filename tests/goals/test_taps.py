"""TAPS against NumPy: points, connector, product of losses, and the cut."""

import functools

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_crown import (
    BATCH,
    LABELS,
    LAYERS,
    LOWER,
    UPPER,
    intervals,
    margins,
    network,
)

from diffai_jax import transformers
from diffai_jax.goals import Context, CROWN_IBP, TAPS
from diffai_jax.goals.taps import connected, largest_margins, place_of
from diffai_jax.graph import cuts, follow, named_by_layers, record
from diffai_jax.domains import from_bounds
from diffai_jax.nn import (
    Conv2D,
    CorrelateAll,
    Flatten,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
    par_sum,
)
from diffai_jax.objectives import ObjectiveError, parse
from diffai_jax.types import Mode, UsageError

CLASSES = 3
KEYS = jax.random.split(jax.random.key(8), BATCH)


def context():
  return Context(None, jnp.asarray(LABELS), jnp.asarray(0.0), KEYS)


@functools.partial(jax.jit, static_argnums=0)
def computed(goal, layers, lower=LOWER, upper=UPPER):
  """Loss, its gradient, and the points of the attack."""

  def loss(layers):
    output = network(layers, goal.abstract(lower, upper, context()))
    found = goal.loss(output, jnp.asarray(LABELS), context())
    return found.sum(), (found, goal.points(output, jnp.asarray(LABELS), context()))

  (_, (found, points)), gradient = jax.value_and_grad(loss, has_aux=True)(layers)
  return found, points, gradient


# Independent computations, an example at a time.


def other(y, i):
  return (y + 1 + i) % CLASSES


def concrete(layers, z):
  for number, (kernel, bias) in enumerate(layers):
    z = (np.maximum(z, 0) if number else z) @ kernel + bias
  return z


def interval_loss(layers, b):
  low, high = intervals(layers, LOWER[b], UPPER[b])[-1]
  y = LABELS[b]
  return np.log(1 + sum(
      np.exp(high[k] - low[y]) for k in range(CLASSES) if k != y
  ))


def latent_box(layers, split, b):
  """Bounds right after the ReLU that has `split` others behind it."""
  low, high = intervals(layers, LOWER[b], UPPER[b])[len(layers) - 2 - split]
  return np.maximum(low, 0), np.maximum(high, 0)


def latent_loss(layers, split, points, b):
  """log(1 + Σ exp m_i(ẑ_i)); the classifier begins with an affine layer."""
  rest = layers[len(layers) - 1 - split:]
  y, total = LABELS[b], 1.0
  for i, point in enumerate(points):
    z = concrete(rest, point)
    total += np.exp(z[other(y, i)] - z[y])
  return np.log(total)


def test_an_affine_classifier_is_attacked_to_the_end(float64):
  """Steps of a whole width reach the corner that is worst for each class."""
  loss, points, _ = computed(TAPS(0, steps=1, step=2), LAYERS)
  kernel, _ = LAYERS[-1]
  for b, y in enumerate(LABELS):
    low, high = latent_box(LAYERS, 0, b)
    for i in range(CLASSES - 1):
      way = kernel[:, other(y, i)] - kernel[:, y]
      np.testing.assert_allclose(
          points[b, i], np.where(way > 0, high, low), atol=1e-9
      )
    expected = latent_loss(LAYERS, 0, np.asarray(points[b]), b)
    np.testing.assert_allclose(
        loss[b], expected * interval_loss(LAYERS, b), atol=1e-9
    )


def test_loss_and_gradient_with_points_within(float64):
  """∂L = scale·L_IBP·∂L_TAPS + L_TAPS·∂L_IBP, by central differences.

  In L_TAPS a point goes with the ends of its box by the connector's shares.
  """
  goal = TAPS(1, scale=3, steps=2, step=0.3, connector=0.6)
  loss, points, gradient = computed(goal, LAYERS)
  rng = np.random.default_rng(0)
  way = [tuple(rng.normal(size=a.shape) for a in pair) for pair in LAYERS]
  moved = lambda step: [
      tuple(a + step * d for a, d in zip(pair, ways))
      for pair, ways in zip(LAYERS, way)
  ]
  expected_slope = 0.0
  for b in range(BATCH):
    low, high = latent_box(LAYERS, 1, b)
    at = np.asarray(points[b])
    assert ((low - 1e-9 <= at) & (at <= high + 1e-9)).all()
    reach = 0.6 * (high - low)
    width = np.where(reach > 0, reach, 1)
    to_high = np.maximum(0, at - (high - reach)) / width
    to_low = np.maximum(0, (low + reach) - at) / width

    def latent(layers):
      begin, end = latent_box(layers, 1, b)
      return latent_loss(
          layers, 1, at + to_high * (end - high) + to_low * (begin - low), b
      )

    bounds = functools.partial(interval_loss, b=b)
    np.testing.assert_allclose(
        loss[b], latent(LAYERS) * bounds(LAYERS), atol=1e-9
    )
    slopes = [
        (f(moved(1e-6)) - f(moved(-1e-6))) / 2e-6 for f in (latent, bounds)
    ]
    expected_slope += 3 * slopes[0] * bounds(LAYERS)
    expected_slope += slopes[1] * latent(LAYERS)
  found = sum(
      np.sum(d * np.asarray(g))
      for ways, pair in zip(way, gradient) for d, g in zip(ways, pair)
  )
  np.testing.assert_allclose(found, expected_slope, rtol=1e-5)


def test_masks_of_dropout_are_each_examples_own(float64):
  """As if the kernel of the next layer had the mask of that example."""
  mask = np.where(np.random.default_rng(1).random((BATCH, 6)) < 0.4, 0, 1.5)

  @jax.jit
  def run(lower, upper):
    labels = jnp.asarray(LABELS)
    value = follow(from_bounds(lower, upper))
    value = transformers.relu(transformers.dense(value, *LAYERS[0]))
    value = transformers.scale_shift(value, mask, 0.0)
    value = transformers.relu(transformers.dense(value, *LAYERS[1]))
    output = transformers.dense(value, *LAYERS[2])
    taps = TAPS(1, steps=1)
    return (
        CROWN_IBP().margins(output, labels, context()),
        taps.loss(output, labels, context()),
        taps.points(output, labels, context()),
    )

  walked, loss, points = run(LOWER, UPPER)
  for b in range(BATCH):
    kernel, bias = LAYERS[1]
    layers = [LAYERS[0], (mask[b][:, None] * kernel, bias), LAYERS[2]]
    np.testing.assert_allclose(walked[b], margins(layers, 1)[b], atol=1e-9)
    expected = latent_loss(layers, 1, np.asarray(points[b]), b)
    np.testing.assert_allclose(
        loss[b], expected * interval_loss(layers, b), atol=1e-9
    )


def test_the_connector_where_the_box_is_a_point():
  share = jax.jit(lambda c: jax.grad(
      lambda ends: connected(ends[0], ends[1], jnp.ones(1), c).sum()
  )(jnp.ones((2, 1))))
  np.testing.assert_array_equal(share(0.5), [[0.5], [0.5]])


def test_of_several_starts_the_best_is_kept():
  """A margin with two hills, of which the lower one draws in more starts."""
  hills = lambda z: jnp.sum(jnp.maximum(-3 * z, 5 * (z - 0.7)), axis=-1)
  high = np.ones((20, 1), np.float32)

  @jax.jit
  def run(key):
    """Where one start and four of them end, and how high."""
    keys = jax.random.split(key, 20)
    ends = [
        largest_margins(hills, -high, high, 2, 20, 0.2, n, keys) for n in (1, 4)
    ]
    return ends[0], *map(hills, ends)

  ends, one, four = map(np.asarray, run(jax.random.key(1)))
  assert set(np.unique(ends)) == {-1, 1}
  assert (four >= one).all()
  assert (four > one).any()


# Where the network is cut.


def graph_of(network, shape=(6, 6, 1)):
  variables = drawn_weights.variables(network, shape)
  return record(lambda x: network.apply(variables, x, Mode.TRAIN), shape)


CHAIN = Sequential((
    Conv2D(2, 3), ReLU(), MaxPool2D(2), Flatten(), Linear(4), ReLU(),
    CorrelateAll(), Linear(3),
))
RESIDUAL = Sequential((
    Flatten(), Linear(4), ReLU(),
    par_sum([], [Linear(4), ReLU(), Linear(4)]),
    par_sum([], [ReLU(), Linear(4), ReLU(), Linear(4)]), Linear(3),
))


@pytest.mark.parametrize("network, split, place", [
    (CHAIN, 0, "relu_1"), (CHAIN, 1, "relu_0"), (CHAIN, 2, None),
    # All ways meet in the sums alone.
    (RESIDUAL, 0, "add_1"), (RESIDUAL, 1, "add_0"), (RESIDUAL, 2, "add_0"),
    (RESIDUAL, 3, "relu_0"), (RESIDUAL, 4, None),
])
def test_relus_are_counted_from_the_output(network, split, place):
  graph = graph_of(network)
  number = place_of(graph, split)
  kinds = [call.transformer for call in graph.calls]
  if place is None:
    assert number == 0
  else:
    name, count = place.rsplit("_", 1)
    places = [n for n, kind in enumerate(kinds, 1) if kind == name]
    assert number == places[int(count)]
  assert number in cuts(graph)


def test_cuts_are_named_by_layers_too():
  """A name that is none, one beside another way, and the output are refused."""
  graph = graph_of(RESIDUAL)
  assert place_of(graph, "layers_2") == place_of(graph, 3)
  with pytest.raises(UsageError, match="the network has 4"):
    place_of(graph, 5)
  image = np.zeros((1, 6, 6, 1), np.float32)
  variables = drawn_weights.variables(RESIDUAL, image.shape[1:])
  with named_by_layers():
    output = RESIDUAL.apply(
        variables, follow(from_bounds(image, image + 0.1)), Mode.TRAIN
    )
  _, low, _ = TAPS("layers_3").cut(output)
  assert low.shape == (1, 4)
  for name, message in (
      ("layers_9", "no layer 'layers_9'; did you mean"),
      ("layers_3/second/layers_1", "cannot be cut at layers_3/second/layers_1"),
      ("layers_5", "which is its output"),
  ):
    with pytest.raises(UsageError, match=message):
      TAPS(name).cut(output)


@pytest.mark.parametrize("text", [
    "TAPS", "TAPS(3, 2)", "TAPS(layers_2, steps=4)", "TAPS(a/b_1/c, 5)",
    "TAPS(split=a / b)", "Sub(0.5, SmallBox(0.4, PGD(8, 0.5), TAPS(2)))",
    "Mix(Box, TAPS(scale=Lin(1, 5, 9), connector=0.3), Until(20, 0, 1))",
    "Shrunk(0.8, TAPS)",
])
def test_texts(text):
  goal = parse(text)
  assert parse(str(goal)) == goal and hash(parse(str(goal))) == hash(goal)


@pytest.mark.parametrize("text, message", [
    ("TAPS(0.5)", "expected a whole number or a layer's name"),
    ("TAPS(a/2)", "expected a whole number or a layer's name"),
    ("TAPS(a*b)", "expected a whole number or a layer's name"),
    ("TAPS(-1)", "expected a whole number or a layer's name"),
    ("TAPS(1, Lin(-1, 0, 9))", "scale must not be below 0"),
    ("TAPS(connector=0)", "connector must be above 0"),
    ("TAPS(restarts=0)", "restarts must be a whole number"),
    ("TAPS(steps=20000)", "steps must be 0 to 10000"),
    ("MixMargins(Point, Sub(1, TAPS), 0.5)", "TAPS has a loss of its own"),
])
def test_what_is_out_of_range_is_refused(text, message):
  with pytest.raises(ObjectiveError, match=message):
    parse(text)
