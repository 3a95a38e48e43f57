"""Elements that are followed: the graph of their run, with its results."""

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.domains import Product, from_bounds, lower, upper
from diffai_jax.graph import follow, named_by_layers, plain, record
from diffai_jax.nn import Flatten, Linear, ReLU, Sequential, par_sum
from diffai_jax.types import Mode, UsageError

NETWORK = Sequential((
    Flatten(), Linear(4), par_sum([], [ReLU(), Linear(4)]), ReLU(), Linear(3),
))
SHAPE = (2, 2, 1)
VARIABLES = drawn_weights.variables(NETWORK, SHAPE)


def forward(value):
  return NETWORK.apply(VARIABLES, value, Mode.TRAIN)


def box(batch=2):
  low = np.random.default_rng(1).uniform(size=(batch, *SHAPE))
  return from_bounds(low.astype(np.float32), (low + 0.1).astype(np.float32))


def test_the_graph_is_that_of_the_network():
  """With the layers' names; and each result is what the graph makes of the box.
  """
  texts = []

  @jax.jit
  def run(element):
    with named_by_layers():
      graph, values = forward(follow(element)).run()
    texts.append(str(graph))
    return [
        [(lower(e), upper(e)) for e in elements]
        for elements in (values, graph.results(element))
    ]

  values, results = run(box())
  assert texts == [str(record(forward, SHAPE))]
  for found, expected in zip(values, results, strict=True):
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-6)


def test_parts_of_a_product_are_followed_beside_others():
  """The others are what they are without it, at any depth."""
  points = np.full((2, *SHAPE), 1 / 3, np.float32)
  calls = []

  @jax.jit
  def run(points, element):
    output = forward(Product((points, Product((follow(element), element)))))
    followed, _ = output.parts[1].parts
    calls.extend(followed.run()[0].calls)
    expected = forward(Product((points, Product((element, element)))))
    return plain(output), expected

  jax.tree.map(
      lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-5),
      *run(points, box()),
  )
  assert len(calls) == 7


def test_two_elements_are_followed_apart():
  first, second = forward(Product((follow(box()), follow(box())))).parts
  assert not {note.number for note in first.notes} & {
      note.number for note in second.notes
  }


def test_what_is_not_needed_is_no_part_of_the_graph():
  start = follow(box())
  transformers.relu(start)
  used = transformers.flatten(start)
  graph, values = transformers.relu(used).run()
  assert [call.transformer for call in graph.calls] == ["reshape", "relu"]
  assert len(values) == 3


def test_arrays_that_are_met_are_constants():
  start = transformers.flatten(follow(box()))
  shifted = transformers.add(start, jnp.arange(4.0)[None])
  graph, _ = shifted.run()
  assert [call.transformer for call in graph.calls] == [
      "reshape", "constant", "add"
  ]
  np.testing.assert_allclose(
      upper(shifted.value), upper(start.value) + jnp.arange(4.0), rtol=1e-6
  )
  with pytest.raises(UsageError, match="the batch and must be 1"):
    transformers.add(start, jnp.ones((2, 4)))
  with pytest.raises(TypeError, match="HybridZonotope meets"):
    transformers.add(start, transformers.flatten(box()))


def test_a_network_that_does_nothing_has_no_graph():
  with pytest.raises(UsageError, match="there are no layers to follow"):
    follow(box()).run()
