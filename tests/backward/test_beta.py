"""Bounds of runs that have known signs at some neurons (β-CROWN)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import transformers
from diffai_jax.backward import inner_bounds, prepared, walked_back, way_to
from diffai_jax.graph import Builder
from diffai_jax.regions import Bounds

_SIZES = (4, 12, 10, 3)


def chain(weights, dtype):
  """Dense layers with ReLUs between them, as a graph."""
  builder = Builder(weights[0][0].shape[:1], dtype)
  x = builder.input
  for number, (kernel, bias) in enumerate(weights):
    x = transformers.relu(x) if number else x
    x = transformers.dense(x, kernel, bias)
  return builder.graph(x)


def random_weights(seed, dtype):
  rng = np.random.default_rng(seed)
  return [
      (rng.normal(size=(a, b)).astype(dtype) / a**0.5,
       rng.normal(size=b).astype(dtype) / 4)
      for a, b in zip(_SIZES, _SIZES[1:])
  ]


def met(bounds, signs):
  """Bounds of the runs that have these signs, 0 where any."""
  low, high = bounds
  return (jnp.where(signs > 0, jnp.maximum(low, 0), low),
          jnp.where(signs < 0, jnp.minimum(high, 0), high))


@functools.partial(jax.jit, static_argnames="careful")
def decided(graph, region, images, signs, alpha, beta, careful=True):
  """Bounds of every output, and the coefficients on the input."""
  bounds = list(inner_bounds(graph, region, images).bounds)
  for number, sign in signs.items():
    bounds[number] = met(bounds[number], sign)
    bounds[number + 1] = tuple(jax.nn.relu(b) for b in bounds[number])
  steps = [
      prepared(call, [graph.shape(n) for n in call.inputs],
               [bounds[n] for n in call.inputs], bounds[number], careful)
      for number, call in enumerate(graph.calls, start=1)
  ]
  outputs = graph.output_shape[0]
  rows = jnp.broadcast_to(jnp.eye(outputs, dtype=images.dtype),
                          images.shape[:1] + (outputs, outputs))
  chosen = {
      number + 1: {"lower": alpha[number],
                   "beta": signs[number][:, None] * beta[number]}
      for number in signs
  }
  with jax.default_matmul_precision("highest"):
    return walked_back(
        way_to(graph, steps, bounds, careful), region, images, rows,
        jnp.zeros(rows.shape[:2], rows.dtype), graph.outputs[0], chosen,
    ), bounds


def problem(seed, dtype=np.float32, scale=1.0):
  """A random network, signs for a third of the neurons, any α and β."""
  rng = np.random.default_rng(seed)
  weights = random_weights(seed, dtype)
  draw = lambda n: rng.choice([-1, 0, 0, 1], size=(1, n)).astype(dtype)
  signs = {1: draw(_SIZES[1]), 3: draw(_SIZES[2])}
  shape = lambda n: (1, _SIZES[-1], n)
  alpha = {k: rng.uniform(size=shape(s.shape[1])).astype(dtype)
           for k, s in signs.items()}
  beta = {k: scale * rng.exponential(size=shape(s.shape[1])).astype(dtype)
          for k, s in signs.items()}
  return weights, signs, alpha, beta


def test_is_what_numpy_computes(float64):
  """A walk with β, written from the formula."""
  weights, signs, alpha, beta = problem(0, float)
  image = np.zeros((1, 4))
  region = Bounds(image - 0.7, image + 0.7)
  (found, coefficients), bounds = decided(
      chain(weights, float), region, image, signs, alpha, beta, careful=False
  )
  rows, total = np.eye(3), np.zeros(3)
  for layer in (2, 1, 0):
    kernel, bias = weights[layer]
    total += rows @ bias
    rows = rows @ kernel.T
    if layer:
      number = 2 * layer - 1
      l, u = (np.asarray(b)[0] for b in bounds[number])
      is_open = (l < 0) & (u > 0)
      width = np.where(is_open, u - l, 1)
      above, below = np.maximum(rows, 0), np.minimum(rows, 0)
      total += above @ np.where(is_open, -u * l / width, 0)
      rows = np.where(
          is_open, above * u / width + below * alpha[number][0],
          np.where(l >= 0, rows, 0),
      ) + signs[number] * beta[number][0]
  expected = total + 0.7 * np.abs(rows).sum(1)
  np.testing.assert_allclose(found[0], expected, rtol=1e-9)
  np.testing.assert_allclose(coefficients[0][0], rows, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e7])
def test_no_run_with_these_signs_is_above(scale):
  """Float32 runs and their exact continuation, of points right at the kinks."""
  escaped, inside = 0, 0
  for seed in range(8):
    weights, signs, alpha, beta = problem(seed, scale=scale)
    rng = np.random.default_rng(seed)
    if scale == 1e7:  # Moves almost all of the coefficient's bits away.
      weights = [(k, np.float32(1e4) * b) for k, b in weights]
    first, second = signs[1], signs[3]
    points = rng.uniform(-0.7, 0.7, (4000, 4)).astype(np.float32)
    # As many signs as a random point has, so that some runs have them all.
    x = points[:1] @ weights[0][0] + weights[0][1]
    signs[1] = np.where(first, np.where(x >= 0, 1, -1), 0).astype(np.float32)
    x = np.maximum(x, 0) @ weights[1][0] + weights[1][1]
    signs[3] = np.where(second, np.where(x >= 0, 1, -1), 0).astype(np.float32)
    image = np.zeros((1, 4), np.float32)
    (found, _), _ = decided(
        chain(weights, np.float32), Bounds(image - 0.7, image + 0.7), image,
        signs, alpha, beta,
    )
    h, keeps = points, np.ones(len(points), bool)
    for (kernel, bias), number in zip(weights, (1, 3, None)):
      x = h @ kernel + bias
      if number:
        keeps &= np.all(signs[number] * x >= 0, 1)
      h = np.maximum(x, 0)
    inside += keeps.sum()
    escaped += np.sum(x[keeps] > np.asarray(found))
  assert inside > 8 and not escaped
