"""The user's own networks: plain Flax modules, as ours in every respect."""

import functools

import drawn_weights
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax.domains import Product, box, lower, upper
from diffai_jax.nn.batch_norm import batch_statistics, moving_mean
from diffai_jax.networks import (
    PlainNetwork,
    certified,
    certified_network,
    describe,
    network_of_graph,
)
from diffai_jax.types import Mode, UsageError

SHAPE = (6, 6, 2)


class Net(nn.Module):
  """A normalised convolution, and what dropout and a residual sum make of it."""

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Conv(4, (3, 3), strides=2, use_bias=False)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    x = nn.relu(nn.Conv(4, (3, 3))(x)) + x
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def case():
  rng = np.random.default_rng(0)
  x = rng.uniform(size=(5, *SHAPE)).astype(np.float32)
  network = PlainNetwork(Net())
  return network, drawn_weights.variables(network, SHAPE), x


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(network, variables, x, mode=Mode.CONCRETE):
  return network.apply(variables, x, mode)


@jax.jit
def images_output(variables, x):
  """What the module itself says."""
  return Net().apply(variables, x, train=False)


def small_box(x):
  return box(x, np.full(x.shape, 0.01, x.dtype))


def test_weights_have_the_modules_names_and_images_its_output(case):
  network, variables, x = case
  assert set(variables["params"]) == {
      "Conv_0", "BatchNorm_0", "Conv_1", "Dense_0"
  }
  expected = images_output(variables, x)
  np.testing.assert_array_equal(apply(network, variables, x), expected)

  @jax.jit
  def run(variables, x):
    point, element = network.apply(
        variables, Product((x, small_box(x))), Mode.TRAIN
    )
    return point, lower(element), upper(element)

  point, low, high = run(variables, x)
  np.testing.assert_allclose(point, expected, rtol=1e-4, atol=1e-5)
  assert np.all((low <= expected) & (expected <= high))


def test_statistics_of_a_batch_are_those_of_flax(case):
  network, variables, x = case
  # Flax keeps 0.99 of what was: of zeros it is a hundredth of the batch's.
  zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])

  @jax.jit
  def run(variables, x):
    found = batch_statistics(network, variables, x)
    kept = Net().apply(
        variables | {"batch_stats": zeros}, x, train=True,
        mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)},
    )[1]["batch_stats"]
    moving_mean(variables["batch_stats"], found)
    normalised = network.apply(variables | {"statistics_of_batch": found}, x)
    expected = Net().apply(variables | {"batch_stats": found}, x, train=False)
    return found, kept, normalised, expected

  found, kept, normalised, expected = run(variables, x)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, 100 * b, rtol=2e-3, atol=1e-4),
      dict(found), dict(kept),
  )
  assert jax.tree.structure(found) == jax.tree.structure(
      variables["batch_stats"]
  )
  np.testing.assert_allclose(normalised, expected, rtol=1e-5)


def test_statistics_over_devices_are_those_of_the_whole(case):
  network, variables, x = case

  @jax.jit
  def run(variables, x):
    halves = jax.vmap(
        lambda part: batch_statistics(network, variables, part, over="parts"),
        axis_name="parts",
    )
    return batch_statistics(network, variables, x), halves(
        x.reshape(2, 2, *SHAPE)
    )

  whole, halves = run(variables, x[:4])
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6),
      dict(halves), dict(whole),
  )
  with pytest.raises(UsageError, match="'parts' is mapped here"):
    jax.vmap(lambda part: batch_statistics(network, variables, part),
             axis_name="parts")(x[:4].reshape(2, 2, *SHAPE))


def test_abstract_layers_act_on_elements_alone(case):
  network, variables, x = case
  with_layers = PlainNetwork(
      Net(), (("Dense_0", (dj.nn.CorrelateAll(),)),
              ("relu_0", (dj.nn.CorrelateMax(k=2, only_train=True),)))
  )

  def symbols(mode):
    run = lambda variables, x: with_layers.apply(variables, small_box(x), mode)
    return jax.eval_shape(run, variables, x).correlated

  assert len(symbols(Mode.TRAIN)) == 2
  assert len(symbols(Mode.CERTIFY)) == 1
  np.testing.assert_array_equal(
      apply(with_layers, variables, x, Mode.TRAIN), apply(network, variables, x)
  )
  wrong = PlainNetwork(Net(), (("Dense", (dj.nn.CorrelateAll(),)),))
  with pytest.raises(UsageError, match="did you mean 'Dense_0'"):
    wrong.apply(variables, small_box(x), Mode.TRAIN)


def test_what_is_certified_is_its_graph_without_normalisation(case):
  network, variables, x = case
  folded, params = certified(network, variables, SHAPE)
  np.testing.assert_allclose(
      apply(folded, {"params": params}, x), apply(network, variables, x),
      rtol=1e-4, atol=1e-5,
  )
  again = certified_network(network, SHAPE)
  assert again == folded and hash(again) == hash(folded)
  np.testing.assert_array_equal(
      apply(again, {"params": params}, x), apply(folded, {"params": params}, x)
  )
  text = str(describe(network, SHAPE))
  assert "conv(" in text and "ReLUs: 72" in text and "Depth: 2" in text


def test_all_ways_to_certify_agree(case):
  network, variables, x = case
  labels = np.asarray(apply(network, variables, x)).argmax(1)
  forward = lambda images: Net().apply(variables, images, train=False)
  graph = dj.from_jax(forward, SHAPE)
  ways = (
      (network, variables), (Net(), variables), forward, graph,
      network_of_graph(graph)[0].bind({"params": network_of_graph(graph)[1]}),
  )
  region = dj.Linf(0.001)
  found = [
      dj.certify(way, x, labels, region, ["Box"], attack=None).margins["Box"]
      for way in ways
  ]
  for margins in found:
    np.testing.assert_allclose(margins, found[0], rtol=1e-3, atol=1e-4)
  low, high = dj.bounds((Net(), variables), x, region, at="Conv_0")
  results = graph.results(jnp.asarray(x))[graph.number("Conv_0")]
  assert np.all((low <= results) & (results <= high))
  assert "relu_0" in dj.bounds(graph, x, region)
  with pytest.raises(ValueError, match="a function of images"):
    dj.certify(7, x, labels, region)


def test_regions_of_other_shapes(case):
  network, variables, x = case
  labels = np.asarray(apply(network, variables, x)).argmax(1)
  run = network, variables
  radius = 0.001
  linf = dj.certify(run, x, labels, dj.Linf(radius), ["Box"])
  same = dj.certify(
      run, x, labels,
      dj.Bounds(np.maximum(x - radius, 0), np.minimum(x + radius, 1)), ["Box"],
  )
  np.testing.assert_allclose(
      same.margins["Box"], linf.margins["Box"], rtol=1e-3, atol=1e-5
  )
  ball = dj.certify(run, x, labels, dj.L2(3.0), ["Box"])
  assert ball.falsified.any()
  for row, point in ball.counterexamples.items():
    distance = np.sqrt(np.sum(np.square(np.float64(point) - x[row])))
    assert distance <= 3.0 and point.min() >= 0 and point.max() <= 1
    found = apply(network, variables, np.where(np.arange(5)[:, None, None, None]
                                               == row, point, x))
    assert np.argmax(np.asarray(found)[row]) != labels[row]
  # Equal bounds fix a variable; those that are not around the images are refused.
  fixed = dj.certify(run, x, labels, dj.Bounds(x, x), ["Box"], attack=None)
  assert fixed.verified["Box"].all()
  with pytest.raises(ValueError, match="outside of its bounds"):
    dj.certify(run, x, labels, dj.Bounds(x + 0.5, x + 0.6))
  with pytest.raises(ValueError, match="one radius"):
    dj.certify(run, x, labels, dj.L2(np.full(SHAPE, 0.1)))


def test_training_starts_from_a_graphs_weights(case):
  network, variables, x = case
  graph = dj.from_jax(
      lambda images: Net().apply(variables, images, train=False), SHAPE
  )
  run = dj.train(
      graph, (x, [0, 1, 2, 0, 1]), goal="Point", epochs=0, progress=False
  )
  np.testing.assert_allclose(
      run.network.apply(run.variables, x), graph(x), rtol=1e-6
  )


def test_a_module_that_was_read_is_traced_once_from_then_on():
  traced = []

  class Counted(nn.Module):
    divide: bool = False

    @nn.compact
    def __call__(self, x):
      traced.append(x.shape[0])
      return nn.Dense(3)(x) / (len(x) if self.divide else 1)

  def read(network):
    del traced[:]
    variables = network.init(jax.random.key(0), jnp.zeros((1, 4)))
    del traced[:]
    network.bind(variables).graph((4,), jnp.float32)
    return len(traced)

  assert [read(PlainNetwork(Counted())) for _ in range(3)] == [2, 1, 1]
  for _ in range(2):  # What is refused once is refused again.
    with pytest.raises(UsageError, match="number of images in its batch"):
      read(PlainNetwork(Counted(divide=True)))
