"""Elements that are followed: the graph of their run, with its results."""

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
VARIABLES = NETWORK.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))


def forward(value):
  return NETWORK.apply(VARIABLES, value, Mode.TRAIN)


def box(batch=2):
  low = jax.random.uniform(jax.random.key(1), (batch, *SHAPE))
  return from_bounds(low, low + 0.1)


def test_the_graph_is_that_of_the_network():
  """With the layers' names; and each result is what the graph makes of the box.
  """
  with named_by_layers():
    graph, values = forward(follow(box())).run()
  assert str(graph) == str(record(forward, SHAPE))
  for found, expected in zip(values, graph.results(box()), strict=True):
    for end in (lower, upper):
      np.testing.assert_allclose(end(found), end(expected), rtol=1e-6)


def test_parts_of_a_product_are_followed_beside_others():
  """The others are what they are without it, at any depth."""
  points = jnp.ones((2, *SHAPE)) / 3
  output = forward(Product((points, Product((follow(box()), box())))))
  expected = forward(Product((points, Product((box(), box())))))
  jax.tree.map(
      lambda found, wanted: np.testing.assert_allclose(found, wanted, atol=1e-5),
      plain(output), expected,
  )
  followed, _ = output.parts[1].parts
  assert len(followed.run()[0].calls) == 7


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
