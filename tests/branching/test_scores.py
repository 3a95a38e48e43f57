"""Scores of neurons to split."""

import functools

import jax
import numpy as np

from diffai_jax.branching import scores

# The two best of each kind.
_candidates = jax.jit(functools.partial(scores.candidates, each=2))
_with_best_children = jax.jit(scores.with_best_children)


def test_candidates_are_the_largest_gaps_and_intercepts():
  """Against loops over neurons, with neurons that are not open among them."""
  rng = np.random.default_rng(0)
  coefficients, values = rng.normal(size=(2, 1, 12))
  low, high = -rng.uniform(0.1, 1, (1, 12)), rng.uniform(0.1, 1, (1, 12))
  low[0, :3], high[0, 3:5] = 0, 0
  slopes = rng.uniform(size=(1, 12))
  found = _candidates(coefficients, values, low, high, slopes)
  gaps, intercepts = {}, {}
  for n in range(5, 12):
    l, u, c = low[0, n], high[0, n], coefficients[0, n]
    x = min(max(values[0, n], l), u)
    line = u * (x - l) / (u - l) if c > 0 else slopes[0, n] * x
    gaps[n] = c * (line - max(x, 0))
    intercepts[n] = max(c, 0) * -l * u / (u - l)
  assert min(gaps.values()) >= 0
  best = lambda of: sorted(of, key=of.get)[:-3:-1]
  assert found[0].tolist() == best(gaps) + best(intercepts)


def test_nothing_open_is_no_candidate():
  ones = np.ones((1, 12))
  found = np.asarray(_candidates(ones, ones, ones, ones, ones))
  assert np.all(found == -1)
  assert _with_best_children(np.full((1, 4), 3.0), found) == -1


def test_the_best_children_are_taken():
  """NaN loses; of nothing but infinite ones the first that exists is taken."""
  nan, inf = np.nan, np.inf
  mean = np.array([[3, 1, nan, 0], [nan, inf, nan, 0]])
  neurons = np.array([[5, 6, 7, -1], [8, -1, 9, -1]])
  assert _with_best_children(mean, neurons).tolist() == [6, 9]
