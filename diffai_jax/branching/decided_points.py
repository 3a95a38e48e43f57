"""The best points where signs of ReLUs are known, by linear programs.

With all signs known the network is affine, and the points that have these signs are
a polytope. It may be so thin that no walk along gradients meets it. Its best point
mostly lies on a wall, where some ReLU is 0, and behind the wall is the polytope with
that one sign changed: a walk from polytope to polytope ends at a local maximum, and
each of its steps is the best that its polytope has.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

from diffai_jax.branching.decisions import neurons_of, places_of, run_with
from diffai_jax.graph import Graph
from diffai_jax.types import Array

_WALL = 1e-7  # A ReLU's input of this share of the largest one is 0.
_BETTER = 1e-9  # A gain of less, of the value's size, is rounding.
_MOST_PROGRAMS = 100  # Linear programs of a walk.


def _call(function: Callable, *arguments):
  return function(*arguments)


def decided_point(
    graph: Graph, low: np.ndarray, high: np.ndarray, decisions: np.ndarray,
    rows: np.ndarray, offsets: np.ndarray,
) -> np.ndarray | None:
  """A point of a box at which the least of the rows is largest, under decisions.

  Args:
    graph: of affine maps and ReLUs.
    low, high: ends of the box, one point each. Neurons without a decision have one
      sign in all of it.
    decisions: of the subdomain, [D]; 0 is none.
    rows, offsets: C and d, [S, ...output] and [S].

  Returns:
    The point, in the box's type; None where no point has these signs, or the
    numbers overflow. It is a solver's: whether it breaks a row is for the caller
    to look at.
  """
  found = _LinearPrograms(graph, low, high, rows, offsets, _call).best(decisions)
  return None if found is None else _in_box(found, low, high)


def best_nearby(
    graph: Graph, low: np.ndarray, high: np.ndarray, start: np.ndarray,
    rows: np.ndarray, offsets: np.ndarray, run: Callable = _call,
) -> np.ndarray:
  """A point of a box at which the least of the rows is largest, as near ones go.

  Args:
    graph, low, high, rows, offsets: as `decided_point` takes them.
    start: a point of the box.
    run: called with a jitted function and its arguments.

  Returns:
    A point whose own polytope of signs has no better one, and neither has one
    behind a single wall at it, as far as a hundred programs tell; in the box's
    type. The start where the numbers overflow.
  """
  programs = _LinearPrograms(graph, low, high, rows, offsets, run)
  point, value = start, -np.inf
  patterns, left = [programs.at(start.astype(float))[0] > 0], _MOST_PROGRAMS
  while patterns and left:
    pattern, left = patterns.pop(0), left - 1
    numbers = np.arange(1, len(pattern) + 1, dtype=np.int32)
    found = programs.best(np.where(pattern, numbers, -numbers))
    if found is None:
      continue
    neurons, reached = programs.at(found)
    if reached - value > _BETTER * abs(reached):
      point, value = found, reached
      walls = np.flatnonzero(np.abs(neurons) <= _WALL * np.abs(neurons).max())
      patterns = list(pattern ^ (numbers - 1 == walls[:, None]))
  return _in_box(point, low, high)


class _LinearPrograms:
  """Linear programs of a network in a box, in float64."""

  def __init__(self, graph, low, high, rows, offsets, run):
    self._graph = in_dtype(graph, np.dtype(float))
    self._low, self._high, self._run = low, high, run
    self._rows = np.asarray(rows, float), np.asarray(offsets, float)

  def best(self, decisions: np.ndarray) -> np.ndarray | None:
    """The best point under decisions, [...]."""
    low, high = self._low, self._high
    middle = (low / 2 + high / 2).astype(float)
    with jax.enable_x64(True):
      values, slopes = map(np.asarray, self._run(
          _affine_map, self._graph, middle, decisions, *self._rows
      ))
    slopes = slopes.reshape(len(values), -1)
    with np.errstate(invalid="ignore"):
      at_zero = values - slopes @ middle.reshape(-1)
    if not (np.isfinite(slopes).all() and np.isfinite(at_zero).all()):
      return None  # The solver refuses them.
    # Over (x, t): the largest t that no row is below.
    is_row = np.arange(len(values)) >= len(decisions)
    found = linprog(
        [0] * low.size + [-1], np.column_stack([-slopes, is_row]), at_zero,
        bounds=[*zip(low.reshape(-1), high.reshape(-1)), (None, None)],
    )
    return None if found.x is None else found.x[:-1].reshape(low.shape)

  def at(self, point: np.ndarray) -> tuple[np.ndarray, float]:
    """What flows into ReLUs at a point, and the least of the rows."""
    with jax.enable_x64(True):
      neurons, values = self._run(_run_at, self._graph, point, *self._rows)
    return np.asarray(neurons), float(np.asarray(values).min())


@jax.jit
def _affine_map(
    graph: Graph, middle: Array, decisions: Array, rows: Array, offsets: Array
) -> tuple[Array, Array]:
  """What has to be ≥ 0, and the rows, at one point; and how they grow with it."""
  neurons = neurons_of(graph)
  places = places_of(decisions, neurons.count)
  on = neurons.flat(graph.results(middle[None]))[0] > 0
  masks = neurons.apart(on.at[places].set(decisions > 0, mode="drop"))

  def affine(x):
    results = run_with(graph, x[None], lambda n, value: value * masks[n])
    output = results[graph.outputs[0]][0]
    decided = neurons.flat(results)[0].at[places].get(mode="fill", fill_value=0)
    values = jnp.tensordot(rows, output, output.ndim) + offsets
    return jnp.concatenate([jnp.sign(decisions) * decided, values])

  return affine(middle), jax.jacrev(affine)(middle)


@jax.jit
def _run_at(
    graph: Graph, point: Array, rows: Array, offsets: Array
) -> tuple[Array, Array]:
  """What flows into ReLUs at a point, and the rows."""
  results = graph.results(point[None])
  output = results[graph.outputs[0]][0]
  values = jnp.tensordot(rows, output, output.ndim) + offsets
  return neurons_of(graph).flat(results)[0], values


def _in_box(point: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  return np.clip(point.astype(low.dtype), low, high)


def in_dtype(graph: Graph, dtype: np.dtype) -> Graph:
  """The graph with its numbers in another floating type, on the host."""
  return jax.tree.map(
      lambda leaf: np.asarray(leaf, dtype)
      if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, graph,
  )
