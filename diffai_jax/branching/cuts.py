"""Bounds of the runs that may break a group of rows, and of no others.

A run that breaks a row, C·z + d ≥ 0, is one of a point where the row's own linear
bound is not below 0, ⟨λ, x⟩ + c ≥ 0: a corner of the region, and the smaller the less
there is left to prove. Inner neurons of a subdomain are bounded over this corner
alone. That brings the row's bound down, and with it the corner. What is proved of
these runs shows that there are none: all others break nothing by themselves.

Kotha et al. 2023, "Provably bounding neural network preimages"; Zhou et al. 2025,
"Clip-and-Verify: linear constraint-driven domain clipping for accelerating neural
network verification".
"""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp

from diffai_jax.backward import at_input, inner_bounds
from diffai_jax.branching.bounding import bounded
from diffai_jax.branching.decisions import (
    Bounds,
    chosen_at,
    decided_way,
    neurons_of,
)
from diffai_jax.branching.subdomains import Root, Subdomains, own_of
from diffai_jax.graph import Graph
from diffai_jax.regions import Cut
from diffai_jax.types import Array


def cut_once(
    graph: Graph, root: Root, some: Subdomains, known: Sequence[Bounds],
    steps: Array,
) -> tuple[Subdomains, Array, Sequence[Bounds]]:
  """Bounds subdomains over the corner where they may break their group.

  Args:
    graph: the network.
    root: of the images.
    some: N subdomains.
    known: bounds of the input and of every result, (l, u), [N, ...] each, of all
      runs of a subdomain that may break its group; `own_of` has the first ones.
    steps: how often α and β are moved then, a number.

  Returns:
    (the subdomains with what they are bounded by now; upper bounds of the least row
    of each, [N], -inf where no run is left; and bounds as `known`).
  """
  neurons = neurons_of(graph)
  own = dataclasses.replace(own_of(neurons, root, some), bounds=tuple(known))
  way, _ = decided_way(graph, neurons, own.bounds, True)
  problem = own.images, own.rows, own.offsets, graph.outputs[0]
  slopes, constants = at_input(way, *problem, chosen_at(
      neurons, own.places, (own.low, own.high),
      some.alpha.astype(some.beta.dtype), some.beta,
  ))
  largest = own.region.linear_max(slopes, own.images) + constants
  # Of a group's rows, all of which such a run breaks, the one that leaves least.
  least = jnp.argmin(largest, axis=1)
  place = least.reshape((-1,) + (1,) * (slopes.ndim - 1))
  corner = Cut(
      own.region, jnp.take_along_axis(slopes, place, 1)[:, 0],
      jnp.take_along_axis(constants, least[:, None], 1)[:, 0],
  )
  known = inner_bounds(
      graph, corner, own.images, known=own.bounds, refine=True
  ).bounds
  rows = jnp.arange(len(least))[:, None]
  low, high = (
      end.at[rows, own.places].get(mode="fill", fill_value=0)
      for end in neurons.ends(known)
  )
  own = dataclasses.replace(own, bounds=known, low=low, high=high)
  some = dataclasses.replace(some, low=low, high=high)
  some, bound, _ = bounded(graph, neurons, own, some, steps)
  # No run has a value that is above its upper and below its lower bound.
  is_empty = sum(
      jnp.sum(low > high, axis=tuple(range(1, low.ndim)))
      for low, high in known
  ) > 0
  return some, jnp.where(is_empty, -jnp.inf, bound), known
