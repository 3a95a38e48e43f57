"""Coefficients on windows are those on whole images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.backward import inner_bounds, walked_back, way_to
from diffai_jax.backward.alpha import descended
from diffai_jax.backward.walk import choices_under
from diffai_jax.backward.windows import Windows, one_hot
from diffai_jax.graph import Builder
from diffai_jax.regions import L2, Linf


def _conv(value, rng, channels, filters, size=3, groups=1, **options):
  kernel = rng.normal(size=(size, size, channels // groups, filters))
  return transformers.conv(
      value, kernel / size, rng.normal(size=filters), groups=groups, **options
  )


def _plain(value, rng):
  """A convolution beside a convolution: what is cut off at edges matters."""
  value = _conv(value, rng, 2, 2, padding=1)
  value = transformers.relu(_conv(value, rng, 2, 4, padding=1, stride=2))
  return _conv(value, rng, 4, 3, size=2)


def _of_all_geometries(value, rng):
  value = transformers.scale_shift(
      value, np.array([0.5, 2.0]), np.array([0.1, -0.2])
  )
  value = _conv(value, rng, 2, 4, size=2, dilation=2, stride=(2, 1),
                padding=((1, 0), (0, 2)))
  value = transformers.average_pool(transformers.tanh(value), 2, stride=1)
  return _conv(transformers.relu(value), rng, 4, 4, groups=2, padding=1)


def _residual(value, rng):
  """Ways of different windows meet, one of them through the identity."""
  begin = transformers.relu(_conv(value, rng, 2, 3, stride=2, padding=1))
  value = transformers.add(_conv(begin, rng, 3, 3, padding=1), begin)
  return _conv(transformers.relu(value), rng, 3, 2, size=1)


@pytest.mark.parametrize("network, region", (
    (_plain, L2(0.3)), (_of_all_geometries, Linf(0.1)), (_residual, Linf(0.1)),
))
def test_are_the_dense_walk(network, region, float64):
  rng = np.random.default_rng(0)
  builder = Builder((9, 8, 2), jnp.float64)
  graph = builder.graph(network(builder.input, rng))
  images = rng.uniform(0.2, 0.8, (2, 9, 8, 2))
  shape, number = graph.output_shape, graph.outputs[0]
  count = int(np.prod(shape))
  examples = np.arange(2 * count) // count
  neurons = np.arange(2 * count) % count

  @jax.jit
  def run(images):
    known = inner_bounds(graph, region, images)
    way = way_to(graph, known.steps, known.bounds)
    own = one_hot(neurons, shape, jnp.float64)
    return [
        walked_back(
            way, region, images, rows, jnp.zeros((2 * count, 2)), number,
            examples=examples,
        )
        for rows in (own, own.whole())
    ]

  with jax.default_matmul_precision("highest"):
    (windows, met), (dense, _) = run(images)
  assert isinstance(met[number], Windows)
  assert sum(isinstance(rows, Windows) for rows in met.values()) > 2
  np.testing.assert_allclose(windows, dense, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("network", (_plain, _residual))
def test_slopes_under_windows_are_those_of_dense_rows(network, float64):
  rng = np.random.default_rng(1)
  builder = Builder((9, 8, 2), jnp.float64)
  graph = builder.graph(network(builder.input, rng))
  images = rng.uniform(0.2, 0.8, (2, 9, 8, 2))
  number, region = graph.outputs[0], Linf(0.1)
  count = int(np.prod(graph.output_shape))
  examples = np.arange(2 * count) // count
  neurons = np.arange(2 * count) % count

  @jax.jit
  def run(images):
    known = inner_bounds(graph, region, images)
    way = way_to(graph, known.steps, known.bounds)

    def walk(rows, chosen):
      return walked_back(
          way, region, images, rows, jnp.zeros((2 * count, 2)), number, chosen,
          examples,
      )

    def best(rows, begin, first):
      """The bounds with slopes that eight steps choose."""
      bounds = lambda chosen: walk(rows, chosen)[0]
      return bounds(descended(bounds, begin, first, 8))

    windows = one_hot(neurons, graph.output_shape, jnp.float64)
    first, met = walk(windows, None)
    begin = choices_under(way, met, examples)
    rows = windows.whole()
    dense, met = walk(rows, None)
    whole = choices_under(way, met, examples)
    return (
        first, walk(windows, begin)[0], best(windows, begin, first), begin,
        best(rows, whole, dense), whole,
    )

  with jax.default_matmul_precision("highest"):
    first, again, best, begin, dense, whole = run(images)
  sizes = [
      sum(leaf.size for leaf in jax.tree.leaves(each))
      for each in (begin, whole)
  ]
  assert sizes[0] < sizes[1]  # Some slopes are of windows.
  np.testing.assert_allclose(again, first, rtol=1e-12)
  np.testing.assert_allclose(best, dense, rtol=1e-9, atol=1e-12)
  assert np.mean(np.asarray(best) < np.asarray(first)) > 0.2
