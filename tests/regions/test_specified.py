"""Upper bounds of specs over elements: against points, and sharp."""

import dataclasses

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import losses, transformers
from diffai_jax.domains import box
from diffai_jax.graph import correlate_before_last, record
from diffai_jax.regions import labels, linear, upper_bounds


_upper_bounds = jax.jit(upper_bounds)


@pytest.mark.parametrize("kind", ["none", "dense", "diagonal", "several"])
@pytest.mark.parametrize("by_example", [False, True])
def test_no_point_is_above_and_some_are_near(kind, by_example, float64):
  rng = np.random.default_rng(0)
  element = elements.random_element(rng, (5,), kind)
  rows = rng.normal(size=((3,) if by_example else ()) + (4, 5))
  offsets = rng.normal(size=4)
  spec = linear(rows, offsets)
  bounds = np.asarray(_upper_bounds(element, spec))
  assert bounds.shape == (3, 4)
  equation = "bsk,bk->bs" if by_example else "sk,bk->bs"
  exact = np.einsum(equation, rows, element.center) + offsets
  size = np.einsum(equation, np.abs(rows), element.uncorrelated)
  for block in element.correlated.values():
    g = elements.coefficients(block)
    size = size + np.abs(np.einsum(
        equation.replace("bk->bs", "bmk->bsm"), rows, g
    )).sum(2)
  np.testing.assert_allclose(bounds, exact + size, rtol=1e-12, atol=1e-12)
  assert np.all(bounds >= exact + size)
  for _ in range(50):
    noise = elements.draw_noise(rng, element, corner=True)
    points = elements.point_of(element, noise)
    assert np.all(np.einsum(equation, rows, points) + offsets <= bounds)


def test_labels_have_the_margins_of_losses(float64):
  rng = np.random.default_rng(1)
  element = elements.random_element(rng, (4,), "dense")
  y = np.array([0, 3, 1])
  found = _upper_bounds(element, labels(y, 4))
  margins = np.asarray(jax.jit(losses.margins)(element, y))
  others = [[k for k in range(4) if k != label] for label in y]
  np.testing.assert_allclose(
      found, np.take_along_axis(margins, np.array(others), 1), rtol=1e-9
  )
  point = np.asarray(element.center)
  np.testing.assert_allclose(
      _upper_bounds(point, labels(y, 4)),
      np.take_along_axis(point - point[np.arange(3), y][:, None],
                         np.array(others), 1),
  )


def test_what_may_overflow_proves_nothing():
  element = box(np.full((1, 2), 3e38, np.float32), np.zeros((1, 2), np.float32))
  spec = labels(np.array([0]), 2)
  assert not spec.proved(_upper_bounds(element, spec)).any()
  broken = dataclasses.replace(
      element, center=np.full((1, 2), np.nan, np.float32)
  )
  assert not spec.proved(_upper_bounds(broken, spec)).any()


def test_a_spec_is_as_sharp_as_if_the_last_layer_had_it(float64):
  """|C·W|·r, where each output apart has |W|·r."""
  rng = np.random.default_rng(2)
  first, kernel = rng.normal(size=(3, 6)), rng.normal(size=(6, 4))
  bias = rng.normal(size=4)

  def forward(x):
    x = transformers.relu(transformers.dense(x, first, np.zeros(6)))
    return transformers.dense(x, kernel, bias)

  graph = record(forward, (3,), np.float64)
  sharp = correlate_before_last(graph)
  assert correlate_before_last(sharp) is sharp
  x = box(rng.normal(size=(2, 3)), np.full((2, 3), 0.1))
  np.testing.assert_array_equal(sharp(x.center), graph(x.center))
  rows = rng.normal(size=(3, 4))
  spec = linear(rows, np.zeros(3))
  hidden, found, loose = jax.jit(lambda x: (
      graph.results(x)[2], upper_bounds(sharp(x), spec),
      upper_bounds(graph(x), spec),
  ))(x)
  merged = kernel @ rows.T
  expected = (
      np.asarray(hidden.center) @ merged + rows @ bias
      + np.asarray(hidden.uncorrelated) @ np.abs(merged)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-9)
  assert np.all(expected < np.asarray(loose))
