"""Subdomains, and what each of them gathers from its image's region."""

import dataclasses

import jax
import jax.numpy as jnp

from diffai_jax.branching.decisions import Bounds, Neurons
from diffai_jax.regions import of_examples
from diffai_jax.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Root:
  """What is known of I images' regions, of G groups of S rows of the spec.

  Attributes:
    images: [I, ...].
    region: around them.
    bounds: of the input and of each result, (l, u), [I, ...] each; sound for
      every run.
    places: the neurons that are open in the region, [I, K]; where an image has
      fewer, the number of all neurons.
    rows, offsets: C and d, [I, G, S, ...output] and [I, G, S]. A group of fewer
      rows has its first one several times.
    blocks: how many of the K places are of each result that flows into a ReLU, in
      their order (static).
  """

  images: Array
  region: object
  bounds: tuple[Bounds, ...]
  places: Array
  rows: Array
  offsets: Array
  blocks: tuple[int, ...] = dataclasses.field(
      default=(), metadata={"static": True}
  )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Subdomains:
  """N subdomains; see `decisions`.

  Attributes:
    image, group: which ones, int32 [N].
    decisions: int32 [N, D].
    alpha: [N, S, K], float16.
    beta: [N, S, K], of places whose neuron has one sign.
    slack: what rounding added to the bound, [N].
    low, high: bounds of the K places' neurons, [N, K]; 0 where there is none.
  """

  image: Array
  group: Array
  decisions: Array
  alpha: Array
  beta: Array
  slack: Array
  low: Array
  high: Array


@dataclasses.dataclass(frozen=True)
class Own:
  """What N subdomains gather from their images.

  Attributes:
    region, images: [N, ...].
    bounds: of the input and of each result, (l, u), [N, ...] each.
    places: as of `Root`, [N, K].
    rows, offsets: of the groups, [N, S, ...output] and [N, S].
    low, high: as of `Subdomains`.
  """

  region: object
  images: Array
  bounds: tuple[Bounds, ...]
  places: Array
  rows: Array
  offsets: Array
  low: Array
  high: Array


def own_of(neurons: Neurons, root: Root, some: Subdomains) -> Own:
  """What subdomains gather from their images, with their own bounds at the places."""
  region, images = of_examples(root.region, root.images, some.image)
  bounds = [
      tuple(bound[some.image] for bound in pair) for pair in root.bounds
  ]
  places = root.places[some.image]
  rows = jnp.arange(len(places))[:, None]
  low, high = (
      neurons.apart(whole.at[rows, places].set(own, mode="drop"))
      for whole, own in zip(neurons.ends(bounds), (some.low, some.high))
  )
  for number in neurons.results:
    bounds[number] = low[number], high[number]
  return Own(
      region, images, tuple(bounds), places,
      root.rows[some.image, some.group],
      root.offsets[some.image, some.group], some.low, some.high,
  )
