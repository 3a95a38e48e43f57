"""Bounds hold for what floats compute; without the allowance they do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.backward import inner_bounds, upper_bounds, way_to
from diffai_jax.graph import Builder
from diffai_jax.regions import Linf

SIZE = 64


def cancelling(seed, activation):
  """Sums of large numbers that nearly cancel, twice."""
  rng = np.random.default_rng(seed)
  half = rng.normal(size=(SIZE, SIZE)) * 1e3
  first = np.concatenate([half, half * (1 + 1e-6)], 1).astype(np.float32)
  second = np.concatenate([np.ones((SIZE, 3)), -np.ones((SIZE, 3))]) * (
      1 + 1e-3 * rng.normal(size=(2 * SIZE, 1)).repeat(3, 1)
  )
  second = second.astype(np.float32)
  # Mostly positive, so that both halves of a ReLU's outputs cancel as well.
  bias = np.tile(rng.normal(size=SIZE) * 1e3 + 2e4, 2).astype(np.float32)
  builder = Builder((SIZE,), np.float32)
  value = transformers.dense(builder.input, first, bias)
  value = activation(value)
  graph = builder.graph(
      transformers.dense(value, second, np.zeros(3, np.float32))
  )

  def exactly(x):
    y = np.asarray(x, float) @ first.astype(float) + bias
    y = np.maximum(y, 0) if activation is transformers.relu else y
    return y @ second.astype(float)

  def in_floats(x, rng):
    """Summed in some order."""
    order = rng.permutation(SIZE)
    y = np.cumsum(x[:, order, None] * first[order], 1, np.float32)[:, -1] + bias
    y = np.maximum(y, 0) if activation is transformers.relu else y
    order = rng.permutation(2 * SIZE)
    return np.cumsum(y[:, order, None] * second[order], 1, np.float32)[:, -1]

  return graph, exactly, in_floats


@pytest.mark.parametrize("activation", (
    transformers.relu, lambda x: transformers.scale_shift(x, 1.0, 0.0),
), ids=("relu", "affine"))
def test_no_evaluation_is_above_the_bound_but_without_allowance(activation):
  caught = 0
  for seed in range(2):
    graph, exactly, in_floats = cancelling(seed, activation)
    rng = np.random.default_rng(seed)
    images = rng.uniform(0.3, 0.7, (4, SIZE)).astype(np.float32)
    rows = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    rows = jnp.broadcast_to(rows, (4, 6, 3))

    @jax.jit
    def bounds(images):
      region, offsets = Linf(1e-9), jnp.zeros((4, 6))
      known = inner_bounds(graph, region, images, refine=True)
      way = way_to(graph, known.steps, known.bounds)
      given = region, images, rows, offsets, graph.outputs[0]
      return upper_bounds(way, *given), upper_bounds(
          way.plain(), *given
      )

    with jax.default_matmul_precision("highest"):
      bound, without = map(np.asarray, bounds(jnp.asarray(images)))
    values = [exactly(images), *(in_floats(images, rng) for _ in range(20))]
    values.append(np.asarray(graph(jnp.asarray(images)), float))
    values = np.stack([np.concatenate([v, -v], 1) for v in values])
    assert np.all(values <= bound)
    caught += np.sum(values > without)
  assert caught, "the test cannot fail"


def test_inputs_of_many_windows_are_allowed_for_in_each():
  """Coefficients of overlapping windows are added, and so is what that rounds."""
  builder = Builder((6, 6, 1), np.float32)
  graph = builder.graph(transformers.max_pool(builder.input, 3, stride=1))
  images = np.zeros((1, 6, 6, 1), np.float32)
  images[0, 2:4, 2:4] = 1e3
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(1, 50, 4, 4, 1)).astype(np.float32)

  @jax.jit
  def run(images, rows):
    """The bound, what the step adds to it, and the network's values."""
    region, offsets = Linf(0.0, None), jnp.zeros((1, 50))
    known = inner_bounds(graph, region, images)
    way = way_to(graph, known.steps, known.bounds)
    bound = upper_bounds(way, region, images, rows, offsets, graph.outputs[0])
    return bound, way.steps[0].pull(rows).constant, graph(images)

  bound, constant, values = map(np.asarray, run(images, rows))
  values = values.astype(float)
  exact = np.sum(rows.astype(float) * values[:, None], (2, 3, 4))
  assert np.all(exact <= bound)
  # The step itself allows for nine additions of numbers up to 1e3.
  lost = 9 * 2.0**-24 * np.sum(np.abs(rows) * values[:, None], (2, 3, 4))
  assert np.all(constant >= lost)
