"""Graphs: recorded networks run as the modules do, on arrays and elements."""

import dataclasses
import functools

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_networks

from diffai_jax import networks, nn, transformers
from diffai_jax.domains import Product, box, correlated_box, lower, upper
from diffai_jax.graph import Builder, record
from diffai_jax.networks import resnets
from diffai_jax.types import Mode, UsageError

SHAPES = {
    "FFNN": (6, 6, 1), "ConvSmall": (12, 12, 1), "ConvMed": (12, 12, 1),
    "CNN7": (8, 8, 3), "ResNet-Tiny": (8, 8, 3),
}


def network_of(name):
  """The network, its variables with drawn statistics, and the example's shape."""
  shape = SHAPES[name]
  network = networks.create(name, 3, (0.4,) * shape[-1], (0.3,) * shape[-1])
  return network, drawn(network, shape), shape


def two_blocks():
  """As `network_of`, of a residual network like the paper's, but narrow."""
  shape = (6, 6, 3)
  network = resnets.wide_resnet(
      3, (0.4,) * 3, (0.3,) * 3, widths=(4, 6), hidden=5, after={}, dropout=0,
      kernel_init=nn.initializers.INITIALIZERS["interval"], remat=False,
  )
  return network, drawn(network, shape), shape


def drawn(network, shape):
  like = drawn_weights.shapes(network, shape)
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.uniform(0.02, 0.2, leaf.shape) * rng.choice(
      [-1, 1], leaf.shape
  )
  variables = jax.tree.map(draw, like)
  if "batch_stats" in variables:
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  return variables


def images(shape, count=2):
  return np.random.default_rng(1).uniform(size=(count, *shape))


@pytest.mark.parametrize("make", [
    functools.partial(network_of, "ConvSmall"), two_blocks
], ids=["ConvSmall", "residual"])
def test_a_recorded_network_is_the_network(make, float64):
  network, variables, shape = make()
  x = images(shape)
  run = lambda x: network.apply(variables, x, Mode.CERTIFY)
  graph = record(run, shape, np.float64)

  @jax.jit
  def both(graph, x):
    width = np.full(x.shape, 0.02)
    return [
        (_ends(graph(e)), _ends(run(e)))
        for e in (x, box(x, width), correlated_box(x, width))
    ]

  for found, expected in both(graph, x):
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def _ends(output):
  if isinstance(output, jax.Array):
    return output, output
  return lower(output), upper(output)


def test_a_recorded_network_has_its_layers_names():
  network, variables, shape = network_of("ResNet-Tiny")
  graph = record(lambda x: network.apply(variables, x), shape)
  assert graph.output_shape == (3,)
  assert {call.transformer for call in graph.calls} >= {"add", "conv"}
  sizes = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert graph.parameters() >= sizes
  assert graph.number("layers_0") < graph.number("layers_1")


@pytest.mark.parametrize("seed", range(3))
def test_random_networks_are_recorded(seed):
  network, shape = random_networks.draw(np.random.default_rng(seed)), (6, 6, 2)
  x = np.random.default_rng(seed).uniform(size=(2, *shape)).astype(np.float32)
  variables = drawn_weights.variables(network, shape, seed)
  graph = record(lambda v: network.apply(variables, v, Mode.CERTIFY), shape)
  run = jax.jit(lambda x: (graph(x), network.apply(variables, x)))
  found, expected = run(x)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_modes_decide_which_abstract_layers_are_calls():
  network = nn.Sequential((
      nn.Linear(4), nn.CorrelateAll(only_train=True), nn.CorrelateMax(k=2),
      nn.Linear(2),
  ))
  variables = drawn_weights.variables(network, (3,))

  def names(mode):
    graph = record(lambda x: network.apply(variables, x, mode), (3,))
    return [call.transformer for call in graph.calls]

  assert names(Mode.CONCRETE) == ["dense", "dense"]
  assert names(Mode.CERTIFY) == ["dense", "correlate_max", "dense"]
  assert names(Mode.TRAIN) == [
      "dense", "correlate_all", "correlate_max", "dense"
  ]


def test_each_run_and_each_call_has_symbols_of_its_own():
  relu = lambda x: transformers.relu(x)
  graph = record(
      lambda x: transformers.subtract(
          relu(x), relu(transformers.scale_shift(x, -1.0, 0.0))
      ), (1,),
  )
  element = dataclasses.replace(
      correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1))), relu="box",
      zonotope=True,
  )
  for run in (graph, jax.jit(lambda e: graph(e))):
    for _ in range(2):
      found = run(element)
      # relu(x) - relu(-x) is x: ±1 is attained.
      assert lower(found) <= -1 and upper(found) >= 1


def test_products_and_jit_and_gradients():
  network, variables, shape = network_of("FFNN")
  graph = record(lambda x: network.apply(variables, x), shape)
  x = images(shape).astype(np.float32)
  around = lambda x: box(x, np.full(x.shape, 0.1, np.float32))

  @jax.jit
  def run(graph, x):
    both = graph(Product((x, around(x))))
    loss = lambda graph: jnp.sum(upper(graph(around(x))))
    return both[0], graph(x), jax.grad(loss)(graph)

  of_product, alone, gradient = run(graph, x)
  np.testing.assert_allclose(of_product, alone, rtol=1e-6)
  kernels = [c.arrays["kernel"] for c in gradient.calls if "kernel" in c.arrays]
  assert all(np.abs(k).max() > 0 for k in kernels)


def test_constants_meet_the_input():
  one = np.ones((1, 2), np.float32)
  graph = record(
      lambda x: transformers.concat([transformers.add(x, one), one], -1), (2,)
  )
  x = np.zeros((3, 2), np.float32)
  points, element = jax.jit(lambda x: (graph(x), graph(box(x, x + 1))))(x)
  np.testing.assert_array_equal(points, np.ones((3, 4), np.float32))
  assert np.all(np.asarray(element.uncorrelated)[:, 2:] == 0)


def test_names_are_found_and_guessed():
  network, variables, shape = network_of("ConvSmall")
  graph = record(lambda x: network.apply(variables, x), shape)
  assert graph.number("layers_3/layers_3") == len(graph.calls)
  with pytest.raises(UsageError, match="did you mean 'layers_1/layers_0'"):
    graph.number("layers_1/layer_0")


def test_what_is_no_transformer_is_refused():
  with pytest.raises(TypeError):
    record(lambda x: jnp.sin(x), (2,))
  with pytest.raises(UsageError, match="computed from its input"):
    record(lambda x: jnp.zeros((1, 2)), (2,))
  with pytest.raises(UsageError, match="must be 1"):
    record(lambda x: transformers.add(x, jnp.zeros((4, 2))), (2,))
  first, second = Builder((2,)), Builder((2,))
  with pytest.raises(UsageError, match="two graphs"):
    transformers.add(first.input, second.input)


def test_calls_that_nothing_needs_are_left_out():
  def forward(x):
    transformers.relu(x)
    return transformers.tanh(x)

  graph = record(forward, (2,))
  assert [call.transformer for call in graph.calls] == ["tanh"]
  assert str(graph) == "%0 = input [2]\n%1 = tanh(%0) -> [2]\nreturn %1"
