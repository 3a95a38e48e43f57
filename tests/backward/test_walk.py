"""Walks backwards: as NumPy computes CROWN, and no point outside of them."""

import functools

import drawn_weights
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.backward import inner_bounds, over_box, upper_bounds, way_to
from diffai_jax.graph import Builder, from_jax
from diffai_jax.regions import L2, Bounds, Linf, labels

HIGHEST = functools.partial(jax.default_matmul_precision, "highest")


def bound(
    graph, region, images, rows, *, refine=False, to_box=False, **options
):
  """Upper bounds [B, S] of rows [S, ...] on the output."""
  rows = np.broadcast_to(rows, images.shape[:1] + rows.shape)

  @jax.jit
  def run(images):
    known = inner_bounds(graph, region, images, refine=refine, **options)
    way = way_to(graph, known.steps, known.bounds)
    problem = rows, jnp.zeros(rows.shape[:2], rows.dtype), graph.outputs[0]
    if to_box:
      return over_box(way, known.bounds, *problem)
    return upper_bounds(way, region, images, *problem)

  with HIGHEST():
    return np.asarray(run(images))


def crown_of_numpy(weights, low, high, rows, inner):
  """CROWN of a chain of dense layers and ReLUs, [S], in plain NumPy.

  Args:
    weights: (kernel, bias) of each layer.
    low, high: the input box.
    rows: [S, K].
    inner: "intervals", or "crown" for walks to every neuron.
  """
  bounds = []  # Of what flows into each ReLU.

  def walk(coefficients, layer):
    """The upper bound of coefficients [S, n] on layer's output."""
    total = np.zeros(len(coefficients))
    for number in range(layer, -1, -1):
      kernel, bias = weights[number]
      total += coefficients @ bias
      coefficients = coefficients @ kernel.T
      if not number:
        break
      l, u = bounds[number - 1]
      slope = np.where(l >= 0, 1, np.where(u <= 0, 0, u / (u - l)))
      offset = np.where((l < 0) & (u > 0), -slope * l, 0)
      least = np.where(l >= 0, 1, np.where(u <= 0, 0, u > -l))
      above, below = np.maximum(coefficients, 0), np.minimum(coefficients, 0)
      total += above @ offset
      coefficients = above * slope + below * least
    above, below = np.maximum(coefficients, 0), np.minimum(coefficients, 0)
    return total + above @ high + below @ low

  l, u = low, high
  for number, (kernel, bias) in enumerate(weights[:-1]):
    middle, reach = (l + u) / 2 @ kernel + bias, (u - l) / 2 @ np.abs(kernel)
    found = middle - reach, middle + reach
    if inner == "crown" and number:
      eye = np.eye(kernel.shape[1])
      found = (np.maximum(found[0], -walk(-eye, number)),
               np.minimum(found[1], walk(eye, number)))
    bounds.append(found)
    l, u = (np.maximum(b, 0) for b in found)
  return walk(rows, len(weights) - 1)


def random_chain(rng, sizes):
  return [
      (rng.normal(size=(n, m)) / np.sqrt(n), rng.normal(size=m) / 4)
      for n, m in zip(sizes, sizes[1:])
  ]


def graph_of_chain(weights):
  builder = Builder((weights[0][0].shape[0],), weights[0][0].dtype)
  value = builder.input
  for number, (kernel, bias) in enumerate(weights):
    value = transformers.relu(value) if number else value
    value = transformers.dense(value, kernel, bias)
  return builder.graph(value)


@pytest.mark.parametrize("inner", ("intervals", "crown"))
def test_chains_have_the_bounds_that_numpy_computes(float64, inner):
  rng = np.random.default_rng(0)
  for sizes in ((5, 12, 3), (4, 9, 11, 8, 3), (6, 30, 30, 2)):
    weights = random_chain(rng, sizes)
    images = rng.uniform(0.2, 0.8, (3, sizes[0]))
    rows = rng.normal(size=(4, sizes[-1]))
    found = bound(
        graph_of_chain(weights), Linf(0.1), images, rows,
        refine=inner == "crown",
    )
    for image, own in zip(images, found):
      expected = crown_of_numpy(weights, image - 0.1, image + 0.1, rows, inner)
      np.testing.assert_allclose(own, expected, rtol=1e-9, atol=1e-9)


def test_to_a_box_is_an_interval_before_the_last_layer(float64):
  rng = np.random.default_rng(5)
  weights = random_chain(rng, (5, 12, 9, 3))
  images, rows = rng.uniform(0.2, 0.8, (3, 5)), rng.normal(size=(4, 3))
  found = bound(
      graph_of_chain(weights), Linf(0.1), images, rows, to_box=True
  )
  low, high = images - 0.1, images + 0.1
  for kernel, bias in weights[:-1]:
    positive, negative = np.maximum(kernel, 0), np.minimum(kernel, 0)
    low, high = (
        np.maximum(low @ positive + high @ negative + bias, 0),
        np.maximum(high @ positive + low @ negative + bias, 0),
    )
  kernel, bias = weights[-1]
  kernel, offset = kernel @ rows.T, bias @ rows.T
  expected = (high @ np.maximum(kernel, 0) + low @ np.minimum(kernel, 0)
              + offset)
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_chunks_of_any_size_find_the_same(float64):
  rng = np.random.default_rng(1)
  graph = graph_of_chain(random_chain(rng, (6, 23, 17, 3)))
  images, rows = rng.uniform(0.2, 0.8, (4, 6)), np.eye(3)
  whole = bound(graph, Linf(0.2), images, rows, refine=True)
  for chunk in (1e-6, 0.05):  # MiB: one neuron at a time, and a few.
    parts = bound(graph, Linf(0.2), images, rows, refine=True, chunk_mb=chunk)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


class Images(nn.Module):
  """Convolutions, a residual sum, pools, a join and moves."""

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(3, (3, 3), strides=2)(x))
    y = nn.relu(nn.Conv(3, (3, 3))(x)) + x
    z = nn.max_pool(y, (2, 2), strides=(2, 2)) - nn.avg_pool(y, (2, 2), (2, 2))
    z = jnp.concatenate([z, z.mean((1, 2), keepdims=True) + 0 * z], -1)
    return nn.Dense(3)(z.transpose(0, 3, 1, 2).reshape(len(z), -1))


class Meeting(nn.Module):
  """Values that meet in products, maxima and minima."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(6)(x)
    y = nn.Dense(6)(x) * nn.sigmoid(x)
    return nn.Dense(3)(jnp.minimum(y, jnp.maximum(x, 0.1)))


class Choosing(nn.Module):
  """Maxima of two and of all, limits and a softmax."""

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(6)(x)
    y = jnp.maximum(x, 0.3 - x) + jnp.abs(x) + jnp.clip(x, -0.2, 0.3)
    return nn.Dense(3)(nn.softmax(y) + y.max(1, keepdims=True) + y * y)


ACTIVATIONS = (
    nn.relu, nn.leaky_relu, nn.tanh, nn.gelu, nn.silu, nn.elu, nn.softplus,
    jax.nn.selu, jnp.square, jnp.exp,
)


class Curved(nn.Module):
  """Dense networks side by side, each of its own activation and then of tanh.

  What one of them computes has no weight in the others (`apart`), so that each
  has bounds of its own, and one walk for all is traced and compiled.
  """

  @nn.compact
  def __call__(self, x):
    count = len(ACTIVATIONS)
    parts = jnp.split(nn.Dense(7 * count)(x), count, axis=-1)
    x = [active(part) for active, part in zip(ACTIVATIONS, parts)]
    x = nn.tanh(nn.Dense(6 * count)(jnp.concatenate(x, -1)))
    return nn.Dense(3 * count)(x)


def apart(variables):
  """Weights between networks side by side are 0."""
  count = len(ACTIVATIONS)

  def blocks(leaf):
    if leaf.ndim < 2 or leaf.shape[0] % count:
      return leaf
    within = np.ones([size // count for size in leaf.shape])
    # As far apart, the numbers that a part sums have the size of one network's.
    return np.asarray(leaf * np.kron(np.eye(count), within) * count**0.5,
                      np.float32)

  return jax.tree.map(blocks, variables)


# Networks, and which of those side by side is meant.
CASES = (
    *((network, 0) for network in (Images(), Meeting(), Choosing())),
    *((Curved(), number) for number in range(len(ACTIVATIONS))),
)


def made(network):
  """The forward function, the graph, 3 images, and what bounds their rows."""
  rng = np.random.default_rng(2)
  shape = (6, 6, 2) if isinstance(network, Images) else (5,)
  images = rng.uniform(0.1, 0.9, (3, *shape)).astype(np.float32)
  variables = drawn_weights.variables(network, shape, seed=2)
  if isinstance(network, Curved):
    variables = apart(variables)
  forward = jax.jit(lambda x: network.apply(variables, x))
  graph = from_jax(forward, shape)

  @jax.jit
  def bounds(images, radius, rows):
    """Of rows [S, K]: with better lines, by walks, and to a box, [3, S] each.

    Last are the bounds of the output. One program has them all, so that the
    compiler meets once what they share.
    """
    region, own = Linf(radius), jnp.broadcast_to(rows, (3, *rows.shape))
    problem = own, jnp.zeros(own.shape[:2], own.dtype), graph.outputs[0]

    def walked(**options):
      known = inner_bounds(graph, region, images, **options)
      way = way_to(graph, known.steps, known.bounds)
      return upper_bounds(way, region, images, *problem), way, known.bounds

    refined, _, _ = walked(refine=True, alpha_steps=2)
    plain, way, known = walked()
    return refined, plain, over_box(way, known, *problem), known[-1]

  def in_numpy(*arguments):
    with HIGHEST():
      return jax.tree.map(np.asarray, bounds(images, *arguments))

  return forward, graph, images, in_numpy


RADIUS = 0.05


@functools.cache
def searched(network):
  """Of four rows on each three outputs, [N, 3, 4] for N networks side by side.

  Returns:
    Bounds of refined lines, of plain ones, to a box, and of intervals; and the
    largest values that points have. Then of each output, [3, K]: its bounds of
    refined and of plain lines in regions of one point, and its values there.
  """
  forward, graph, images, bounds = made(network)
  size, = graph.output_shape
  count = size // 3
  rng = np.random.default_rng(3)
  rows = rng.normal(size=(4, 3))
  rows = np.kron(np.eye(count), rows).astype(np.float32)
  refined, plain, boxed, (low, high) = bounds(RADIUS, rows)
  # As many rows: one program.
  at_points = bounds(0.0, np.eye(*rows.shape, dtype=np.float32))[:2]
  ends = rows * low[:, None], rows * high[:, None]
  interval = np.maximum(*ends).sum(-1)
  corners = rng.choice([-RADIUS, RADIUS], (60, *images.shape))
  inside = rng.uniform(-RADIUS, RADIUS, (40, *images.shape))
  points = np.clip(images + np.concatenate([corners, inside]), 0, 1)
  points = np.concatenate([points, images[None]]).astype(np.float32)
  outputs = np.asarray(forward(points.reshape(-1, *images.shape[1:])))
  outputs = outputs.reshape(101, 3, size)
  attained = (outputs[:-1].astype(float) @ rows.astype(float).T).max(0)
  return [
      array.reshape(3, count, 4).swapaxes(0, 1)
      for array in (refined, plain, boxed, interval, attained)
  ], [*(found[:, :size] for found in at_points), outputs[-1]]


def name_of(case):
  network, number = case
  if isinstance(network, Curved):
    return ACTIVATIONS[number].__name__
  return type(network).__name__


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_no_point_escapes_and_more_work_pays(case):
  network, number = case
  refined, plain, boxed, interval, attained = (
      array[number] for array in searched(network)[0]
  )
  assert refined.mean() < plain.mean()
  assert np.all(boxed <= interval + 1e-5)
  for above in (refined, plain, boxed):
    assert np.all(attained <= above)


def test_regions_end_walks_in_their_own_way(float64):
  rng = np.random.default_rng(3)
  kernel, bias = rng.normal(size=(6, 3)), rng.normal(size=3)
  graph = graph_of_chain([(kernel, bias)])
  images, rows = rng.uniform(0.4, 0.6, (2, 6)), rng.normal(size=(5, 3))
  combined = kernel @ rows.T
  at = images @ combined + bias @ rows.T
  radius = rng.uniform(0, 0.1, 6)
  fixed = radius * (np.arange(6) % 2)
  for region, expected in (
      (Linf(radius), at + radius @ np.abs(combined)),
      (L2(0.1, None), at + 0.1 * np.linalg.norm(combined, axis=0)),
      (Bounds(images - fixed, images + fixed), at + fixed @ np.abs(combined)),
  ):
    found = bound(graph, region, images, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "network", (Images(), Meeting(), Choosing(), Curved()),
    ids=lambda network: type(network).__name__,
)
def test_degenerate_regions_are_exact(network):
  refined, plain, exact = searched(network)[1]
  for found in (refined, plain):
    assert np.all(found >= exact)
    np.testing.assert_allclose(found, exact, atol=2e-3)


def test_what_cancels_costs_no_bound():
  """x - x through two ways: the walk adds their rows before it bounds them."""
  builder = Builder((3,), np.float32)
  x = builder.input
  graph = builder.graph(transformers.subtract(
      transformers.relu(x), transformers.relu(transformers.reshape(x, (3,)))
  ))
  images = np.full((1, 3), 0.5, np.float32)
  found = bound(graph, Linf(0.25), images, np.eye(3, dtype=np.float32))
  np.testing.assert_allclose(found, 0, atol=1e-5)


def test_nan_bounds_prove_nothing():
  graph = graph_of_chain([(np.full((2, 2), 3e38, np.float32),
                           np.zeros(2, np.float32))] * 2)
  images = np.full((1, 2), 0.5, np.float32)
  found = bound(graph, Linf(0.1), images, np.eye(2, dtype=np.float32))
  assert not np.any(found < 0)
  spec = labels(np.array([0]), 2)
  assert not bool(spec.proved(jnp.asarray(found[:, :1]))[0])
