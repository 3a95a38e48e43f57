"""One round of branch and bound, as one program: split, bound, look for a point.

The program takes N subdomains, of any images of a block and any groups of the spec.
Each gathers what is known of its image's region (`Root`), is split at the neuron of
`scores`, and both children are bounded with slopes α and multipliers β, which begin
with their parent's and are moved a few steps, without allowance for rounding. The
last walk allows for it, with the numbers that are kept: what the program returns is
a proof where it is below 0, and the same α and β show it again.

α are kept in 16 bits: any number in [0, 1] is sound, if it is the one that is
walked with.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp
import optax

from diffai_jax.backward import walked_back
from diffai_jax.branching import scores
from diffai_jax.branching.decisions import (
    Neurons,
    chosen_at,
    decided_way,
    met,
    neurons_of,
)
from diffai_jax.branching.reduced import Reduced, bounds_by
from diffai_jax.branching.subdomains import Own, Root, Subdomains, own_of
from diffai_jax.graph import Graph
from diffai_jax.regions import L2
from diffai_jax.types import Array

_EACH = 5  # Candidates by each score.
# How far α and β move at first; at the end it is a few hundredths of that.
_RATES, _LAST = {"alpha": 0.1, "beta": 0.2}, 0.03


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Round:
  """What a round finds of N parents: their children stand one behind the other.

  Attributes:
    neuron: where each parent is split, int32 [N]; -1 where nothing is open.
    children: 2N of them; of each parent first that with x ≥ 0.
    bound: upper bound of min over the group's rows of C·z + d, [2N].
    value: what that is at a point of the region, as floats come out, [2N].
    point: this point, [2N, ...].
  """

  neuron: Array
  children: Subdomains
  bound: Array
  value: Array
  point: Array


def one_round(
    graph: Graph, root: Root, parents: Subdomains, steps: Array,
    maps: Reduced | None = None,
) -> Round:
  """Splits N subdomains and bounds both halves of each.

  Args:
    graph: the network, with one output.
    root: of the images.
    parents: what is split.
    steps: how often α and β are moved, a number.
    maps: of G images, which N / G parents each are of in turn; None where the
      network cannot be reduced.
  """
  neurons = neurons_of(graph)
  neuron = _split_at(graph, neurons, root, parents, maps)
  children = _children(root, parents, neuron)
  own = own_of(neurons, root, children)
  children, bound, point = bounded(
      graph, neurons, own, children, steps, maps, root.blocks
  )
  value = _value(graph(point), own)
  return Round(neuron, children, bound, value, point)


def bounded(
    graph: Graph, neurons: Neurons, own: Own, some: Subdomains, steps: Array,
    maps: Reduced | None = None, blocks: tuple[int, ...] = (),
) -> tuple[Subdomains, Array, Array]:
  """Moves α and β of N subdomains, and bounds them with rounding allowed for.

  Args:
    graph, maps, steps: as of `one_round`.
    neurons: of the graph.
    own: what the subdomains have.
    some: these.
    blocks: of the root.

  Returns:
    (the subdomains; upper bounds of the least row of each, [N]; where these are
    attained, [N, ...]).
  """
  rough = _rough(graph, neurons, own, some.group, maps, blocks)
  alpha, beta, least = _moved(rough, own, some, steps)
  alpha = alpha.astype(jnp.float16)
  careful, _ = decided_way(graph, neurons, own.bounds, True)
  bound, met = _walk(graph, neurons, careful, own, alpha, beta)
  best = jnp.argmin(bound, axis=1)
  bound = bound.min(axis=1)
  some = dataclasses.replace(
      some, alpha=alpha, beta=beta,
      slack=jnp.maximum(bound - least.min(axis=1), 0),
  )
  return some, bound, _attaining(own, met, best)


def _walk(graph, neurons, way, own, alpha, beta):
  chosen = chosen_at(
      neurons, own.places, (own.low, own.high), alpha.astype(beta.dtype), beta
  )
  return walked_back(
      way, own.region, own.images, own.rows, own.offsets, graph.outputs[0],
      chosen,
  )


def _rough(
    graph: Graph, neurons: Neurons, own: Own, group: Array,
    maps: Reduced | None, blocks: tuple[int, ...],
) -> Callable[[Array, Array], Array]:
  """(α, β) -> bounds of subdomains, [N, S], without allowance for rounding."""
  if maps is not None:
    return lambda alpha, beta: bounds_by(
        maps, blocks, group, own.region, own.images,
        (own.low, own.high), alpha.astype(beta.dtype), beta,
    )
  way, _ = decided_way(graph, neurons, own.bounds, False)
  return lambda alpha, beta: _walk(graph, neurons, way, own, alpha, beta)[0]


def _attaining(own: Own, met: dict, best: Array) -> Array:
  """The points where the linear bounds of these rows are largest, [N, ...]."""
  if 0 not in met:
    return own.images
  rows = _of_row(met[0], best)
  if isinstance(own.region, L2):
    step = own.region.steepest(rows)
    return own.region.project(own.images + step, own.images)
  low, high = own.region.bounds(own.images)
  return jnp.where(rows > 0, high, low)


def _of_row(values: Array, row: Array) -> Array:
  """[N, S, ...] at one of S for each: [N, ...]."""
  return jnp.take_along_axis(
      values, row.reshape((-1,) + (1,) * (values.ndim - 1)), 1
  )[:, 0]


def _value(outputs: Array, own: Own) -> Array:
  """min over the rows of C·z + d, [N]."""
  axes = tuple(range(2, own.rows.ndim))
  values = jnp.sum(own.rows * outputs[:, None], axes) + own.offsets
  return values.min(axis=1)


def _split_at(
    graph: Graph, neurons: Neurons, root: Root, parents: Subdomains,
    maps: Reduced | None,
) -> Array:
  """The neuron of each subdomain whose split gains most, [N]; -1 for none."""
  own = own_of(neurons, root, parents)
  way, (low, high) = decided_way(graph, neurons, own.bounds, False)
  bound, met = _walk(graph, neurons, way, own, parents.alpha, parents.beta)
  best = jnp.argmin(bound, axis=1)
  point = _attaining(own, met, best)
  values = neurons.flat(graph.results(point))
  none = jnp.zeros_like(own.rows[:, 0, :1].reshape(-1)[0])
  coefficients = neurons.flat({
      n: _of_row(met[relu], best) if relu in met
      else jnp.broadcast_to(none, (len(best),) + shape)
      for n, relu, shape in zip(neurons.results, neurons.relus, neurons.shapes)
  })
  chosen = chosen_at(
      neurons, own.places, (own.low, own.high),
      parents.alpha.astype(bound.dtype), parents.beta,
  )
  slopes = neurons.flat({
      n: _of_row(chosen[relu]["lower"], best)
      for n, relu in zip(neurons.results, neurons.relus)
  })
  tried = scores.candidates(coefficients, values, low, high, slopes, _EACH)

  def mean(neuron: Array) -> Array:
    children = _children(root, parents, neuron)
    rough = _rough(
        graph, neurons, own_of(neurons, root, children), children.group, maps,
        root.blocks,
    )
    bound = rough(children.alpha, children.beta)
    return bound.min(axis=1).reshape(-1, 2).mean(axis=1)

  return scores.with_best_children(lax.map(mean, tried.T).T, tried)


def _children(root: Root, parents: Subdomains, neuron: Array) -> Subdomains:
  """Both halves of each, one behind the other; twice the parent for -1."""
  twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, axis=0), parents)
  depth = jnp.sum(twice.decisions != 0, axis=1)
  sign = jnp.tile(jnp.asarray([1, -1], jnp.int32), len(neuron))
  decision = jnp.repeat(neuron + 1, 2) * sign
  rows = jnp.arange(len(sign))
  own = root.places[twice.image] == jnp.repeat(neuron, 2)[:, None]
  low, high = met((twice.low, twice.high), own * sign[:, None])
  return dataclasses.replace(
      twice,
      decisions=twice.decisions.at[rows, depth].set(decision, mode="drop"),
      low=low, high=high,
  )


def _moved(
    rough: Callable[[Array, Array], Array], own: Own, children: Subdomains,
    steps: Array,
) -> tuple[Array, Array, Array]:
  """α and β after some steps of descent, and their `rough` bounds, [N, S].

  They end early where all bounds are below 0 by more than rounding adds.
  """
  begin = {
      "alpha": children.alpha.astype(own.offsets.dtype), "beta": children.beta
  }
  enough = -2 * children.slack
  optimizer = optax.scale_by_adam()

  def loss(moved):
    bound = rough(moved["alpha"], moved["beta"])
    return jnp.sum(jnp.where(jnp.isfinite(bound), bound, 0)), bound

  def goes_on(state):
    step, _, _, _, least = state
    return (step < steps) & jnp.any(least.min(axis=1) >= enough)

  def move(state):
    step, moved, moments, best, least = state
    (_, bound), gradient = jax.value_and_grad(loss, has_aux=True)(moved)
    better = (bound < least)[..., None]
    best = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), moved, best
    )
    least = jnp.where(better[..., 0], bound, least)
    gradient = jax.tree.map(jnp.nan_to_num, gradient)
    updates, moments = optimizer.update(gradient, moments)
    rate = 1 - (1 - _LAST) * step.astype(least.dtype) / steps
    moved = {
        "alpha": jnp.clip(
            moved["alpha"] - rate * _RATES["alpha"] * updates["alpha"], 0, 1
        ),
        "beta": jnp.maximum(
            moved["beta"] - rate * _RATES["beta"] * updates["beta"], 0
        ),
    }
    return step + 1, moved, moments, best, least

  least = jnp.full(own.offsets.shape, jnp.inf, own.offsets.dtype)
  state = jnp.zeros((), jnp.int32), begin, optimizer.init(begin), begin, least
  _, _, _, best, least = lax.while_loop(goes_on, move, state)
  return best["alpha"], best["beta"], least
