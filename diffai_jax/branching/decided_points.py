"""The best point of a subdomain in which every ReLU is decided, by a linear program.

With all signs known the network is affine, and the points that have these signs are
a polytope. It may be so thin that no walk along gradients meets it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

from diffai_jax.branching.decisions import neurons_of, places_of, run_with
from diffai_jax.graph import Graph
from diffai_jax.types import Array


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
  middle = (low / 2 + high / 2).astype(float)
  with jax.enable_x64(True):
    values, slopes = map(np.asarray, _affine_map(
        in_dtype(graph, np.dtype(float)), middle, decisions,
        np.asarray(rows, float), np.asarray(offsets, float),
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
  if found.x is None:
    return None
  return np.clip(found.x[:-1].reshape(low.shape).astype(low.dtype), low, high)


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


def in_dtype(graph: Graph, dtype: np.dtype) -> Graph:
  """The graph with its numbers in another floating type, on the host."""
  return jax.tree.map(
      lambda leaf: np.asarray(leaf, dtype)
      if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, graph,
  )
