"""Graphs made of graphs: cut, kept, simplified."""

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_graph import images, network_of

from diffai_jax import nn, transformers
from diffai_jax.graph import keep, record, simplify, split
from diffai_jax.types import UsageError


def recorded(name):
  network, variables, shape = network_of(name)
  graph = record(lambda x: network.apply(variables, x), shape)
  return graph, jnp.asarray(images(shape), jnp.float32)


def test_two_halves_are_the_whole():
  graph, x = recorded("ResNet-Tiny")
  whole = graph(x)
  for name in ("layers_0", "layers_1", "layers_3"):
    first, second = split(graph, name)
    assert second.input_shape == first.output_shape
    assert len(first.calls) + len(second.calls) == len(graph.calls)
    np.testing.assert_array_equal(second(first(x)), whole)


def test_a_cut_through_one_of_two_ways_is_refused():
  graph, _ = recorded("ResNet-Tiny")
  inside = next(
      call.name for call in graph.calls if "/first/" in call.name
  )
  with pytest.raises(UsageError, match="cannot be cut"):
    split(graph, inside)


def test_results_are_kept_by_name():
  graph, x = recorded("ConvSmall")
  results = graph.results(x)
  both = keep(graph, ["layers_1", "layers_0"])
  assert len(both.calls) < len(graph.calls)
  for found, name in zip(both(x), ("layers_1", "layers_0"), strict=True):
    np.testing.assert_array_equal(found, results[graph.number(name)])
  with pytest.raises(UsageError, match="no layer 'layer'"):
    keep(graph, ["layer"])


def test_batch_normalisation_becomes_part_of_the_layer_before():
  graph, x = recorded("CNN7")
  simple = simplify(graph)
  assert "scale_shift" not in [c.transformer for c in simple.calls[1:]]
  found, expected = jax.jit(lambda x: (simple(x), graph(x)))(x)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_affine_calls_are_merged(float64):
  rng = np.random.default_rng(0)
  kernel, other = rng.normal(size=(6, 8)), rng.normal(size=(8, 2))
  narrow = rng.normal(size=(2, 6))
  factor, shift = rng.normal(size=(2, 6))

  def forward(x):
    x = transformers.scale_shift(x, factor, shift)
    x = transformers.scale_shift(x, 0.5, 1.0)
    x = transformers.dense(x, kernel, shift[:1] * np.ones(8))
    x = transformers.dense(x, other, np.ones(2))
    # A bottleneck stays: merged it would be larger.
    x = transformers.dense(x, narrow, np.ones(6))
    return transformers.relu(x)

  graph = record(forward, (6,), np.float64)
  simple = simplify(graph)
  assert [c.transformer for c in simple.calls] == ["dense", "dense", "relu"]
  x = rng.normal(size=(4, 6))
  found, expected = jax.jit(lambda x: (simple(x), graph(x)))(x)
  np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_what_others_use_too_is_not_merged():
  def forward(x):
    scaled = transformers.scale_shift(x, 2.0, 0.0)
    return transformers.add(transformers.scale_shift(scaled, 3.0, 0.0), scaled)

  graph = record(forward, (2,))
  assert len(simplify(graph).calls) == len(graph.calls)


def test_factors_by_position_stay_apart():
  """A convolution's kernel has no place for a factor of a row."""
  kernel = np.ones((1, 1, 1, 2), np.float32)
  rows = np.arange(3, dtype=np.float32).reshape(3, 1, 1)

  def forward(x):
    x = transformers.conv(x, kernel, np.zeros(2, np.float32))
    return transformers.scale_shift(x, rows, 0.0)

  graph = record(forward, (3, 3, 1))
  assert len(simplify(graph).calls) == 2


def test_moves_that_do_nothing_go():
  def forward(x):
    x = transformers.reshape(transformers.reshape(x, (6,)), (2, 3))
    return transformers.relu(x)

  graph = record(forward, (2, 3))
  assert [c.transformer for c in simplify(graph).calls] == ["relu"]


def test_gradients_pass_through_simplified_graphs():
  network = nn.Sequential((nn.Linear(3), nn.BatchNorm(), nn.Linear(2)))
  x = np.ones((2, 4), np.float32)
  variables = drawn_weights.variables(network, (4,))

  def loss(variables):
    graph = record(lambda v: network.apply(variables, v), (4,))
    return jnp.sum(simplify(graph)(x) ** 2)

  def plain(variables):
    return jnp.sum(network.apply(variables, x) ** 2)

  found, expected = jax.jit(
      lambda variables: (jax.grad(loss)(variables), jax.grad(plain)(variables))
  )(variables)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      found, expected,
  )
