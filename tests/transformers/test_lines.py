"""Lines below and above functions: no point outside, and none further off."""

import functools

import jax
import numpy as np
import pytest

from diffai_jax.transformers import TRANSFORMERS, lines

CLIP = {"low": np.float32(-1), "high": np.float32(2)}
NAMES = sorted(lines.LINED)


def intervals(name, rng, count=600):
  """Bounds of every size, in float32, where the function is defined."""
  center = rng.normal(size=count) * rng.choice([0.1, 1, 5, 20], count)
  radius = np.abs(rng.normal(size=count)) * rng.choice([0, 1e-6, 0.01, 1, 9], count)
  low, high = center - radius, center + radius
  if name in ("log", "sqrt", "reciprocal"):
    low = np.abs(low) + 1e-3
    high = low + 2 * radius
    if name == "reciprocal":
      sign = rng.choice([-1, 1], count)
      low, high = np.where(sign > 0, low, -high), np.where(sign > 0, high, -low)
  low, high = low.astype(np.float32), high.astype(np.float32)
  return np.minimum(low, high), np.maximum(low, high)


@functools.partial(jax.jit, static_argnums=0)
def compiled_lines(name, low, high, shares):
  arrays = CLIP if name == "clip" else {}
  slopes = lines.slopes(name, arrays, {}, low, high)
  at = lambda share: slopes.least + share * (slopes.most - slopes.least)
  build = functools.partial(lines.lines, name, arrays, {}, low, high)
  return build(slopes.lower, slopes.upper), build(*map(at, shares))


def made(name, low, high, shares, count=600):
  """Lines with the slopes by default and with random ones.

  Of fewer intervals too, in the programs that `intervals` takes.
  """
  more = [(0, 0), (0, count - len(low))]
  low, high = np.pad([low, high], more, mode="edge")
  found = compiled_lines(name, low, high, np.pad(shares, more, mode="edge"))
  size = shares.shape[1]
  return jax.tree.map(lambda values: np.asarray(values)[:size], found)


@functools.partial(jax.jit, static_argnums=0)
def values_of(name, x):
  return TRANSFORMERS[name](x, **(CLIP if name == "clip" else {}))


def distances(name, found, low, high, rng):
  """How far f is above the lower and below the upper line, [points, n] each."""
  share = np.concatenate([
      rng.uniform(size=(100, len(low))), np.zeros((1, len(low))),
      np.ones((1, len(low))),
  ])
  x = low.astype(float) + (high.astype(float) - low) * share
  x = np.clip(x.astype(np.float32), low, high)
  y = np.asarray(values_of(name, x), float)
  wide = lambda a: np.asarray(a, float)
  below = y - wide(found.lower_slope) * x - wide(found.lower_offset)
  return below, wide(found.upper_slope) * x + wide(found.upper_offset) - y


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_between_their_lines_whatever_the_slopes(name):
  rng = np.random.default_rng(0)
  low, high = intervals(name, rng)
  shares = rng.uniform(size=(2, len(low))).astype(np.float32)
  for found in made(name, low, high, shares):
    below, above = distances(name, found, low, high, rng)
    assert np.all(below >= 0) and np.all(above >= 0)
    # Sharp: each line comes near to the function somewhere on the interval.
    width = np.maximum(high - low, 1e-6).astype(float)
    size = 1 + np.abs(np.asarray(values_of(name, np.stack([low, high])))).max(0)
    for apart in (below, above):
      assert np.median(apart.min(0) / (width + 1e-3 * size)) < 0.02


@pytest.mark.parametrize("name", ("relu", "absolute", "elu"))
def test_where_a_function_is_one_line_both_lines_are_that_one(name):
  low = np.array([0.5, 0.0], np.float32)
  for found in made(name, low, low + 1, np.full((2, 2), 0.3, np.float32)):
    assert np.all(np.asarray(found.lower_slope) == 1)
    assert np.all(np.asarray(found.upper_slope) == 1)
    assert not np.any(found.lower_offset) and not np.any(found.upper_offset)
  is_open = lines.is_open(name, {}, {}, low, low + 1)
  assert not np.any(is_open)


def test_default_lines_of_curves_are_tighter_than_the_parallel_pair():
  """sigmoid between -3 and 2: about the area that its convex hull leaves."""
  low, high = np.full(1, -3, np.float32), np.full(1, 2, np.float32)
  rng = np.random.default_rng(1)
  found, _ = made("sigmoid", low, high, np.zeros((2, 1), np.float32))
  below, above = distances("sigmoid", found, low, high, rng)
  x = np.linspace(-3, 2, 2001)
  y = 1 / (1 + np.exp(-x))
  # The best lines, by trying slopes.
  slopes = np.linspace(0, 0.25, 501)[:, None]
  best_below = (y - slopes * x - (y - slopes * x).min(1, keepdims=True)).mean(1)
  best_above = ((y - slopes * x).max(1, keepdims=True) - y + slopes * x).mean(1)
  assert below.mean() < 1.3 * best_below.min()
  assert above.mean() < 1.3 * best_above.min()


def test_nan_and_undefined_bounds_give_nan():
  low, high = np.array([np.nan, -1], np.float32), np.array([1, 1], np.float32)
  for name, where in (("relu", 0), ("log", 1), ("reciprocal", 1), ("tanh", 0)):
    found, _ = made(name, low, high, np.zeros((2, 2), np.float32))
    assert np.isnan(found.lower_offset[where])
    assert np.isnan(found.upper_offset[where])
