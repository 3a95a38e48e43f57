"""A network of affine maps and ReLUs, reduced to the neurons that are open.

Where a region leaves K neurons open, all others are affine in it. So what flows into
an open neuron, and each row of the spec, is one affine map of the input and of the
outputs of earlier open neurons, z = A·x + B·s + c, and a walk back is a few products
of small matrices: a fraction of a walk through the network's own calls. It finds α,
β and splits. Bounds that prove something are walked through the network itself, with
rounding allowed for, so nothing here has to be more than nearly right.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.branching.decisions import (
    Bounds,
    Neurons,
    is_piecewise_linear,
    known_signs,
    neurons_of,
    run_with,
)
from diffai_jax.graph import Graph
from diffai_jax.kernels import precision
from diffai_jax.regions import L2
from diffai_jax.types import Array

# A product of matrices is so many times as fast as a walk's convolutions.
_FASTER = 4
_MOST_MIB = 64.0  # Of one image's maps.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reduced:
  """The maps of an image, or of G of them with an axis in front.

  Attributes:
    on_neurons: B, [K + R, K]: of the open neurons, then of the R rows of the spec.
    on_inputs: A, [K + R, n].
    constants: c, [K + R].
  """

  on_neurons: Array
  on_inputs: Array
  constants: Array


def can_reduce(graph: Graph, places: int, rows: int) -> bool:
  """Whether that is possible, and faster than the network's own calls.

  Args:
    graph: the network.
    places, rows: K and R.
  """
  if not is_piecewise_linear(graph):
    return False
  inputs = math.prod(graph.input_shape)
  products = sum(
      math.prod(call.shape) * _terms(call) for call in graph.calls
  )
  each = np.dtype(graph.dtype).itemsize / 2**20
  return (
      places * (inputs + places / 2) <= _FASTER * products
      and (places + rows) * (inputs + places) * each <= _MOST_MIB
  )


def _terms(call) -> int:
  """Products of an output, at least."""
  kernel = call.arrays.get("kernel")
  return 1 if kernel is None else math.prod(np.shape(kernel)[:-1])


@jax.jit
def reduced(
    graph: Graph, image: Array, bounds: Sequence, places: Array, rows: Array,
    offsets: Array,
) -> Reduced:
  """The maps of one image.

  Args:
    graph: of affine maps and ReLUs.
    image: [...].
    bounds: of the input and of each result, [...] each.
    places: the open neurons, [K]; the number of all neurons is none.
    rows, offsets: of the spec, [R, ...output] and [R].
  """
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    neurons = neurons_of(graph)
    low, _ = neurons.ends(bounds)
    count = neurons.count
    is_on = (low >= 0).astype(image.dtype)
    masks = neurons.apart(is_on.at[places].set(0, mode="drop"))

    def maps(x: Array, outputs: Array) -> Array:
      none = jnp.zeros((count,), x.dtype)
      given = neurons.apart(none.at[places].set(outputs, mode="drop"))
      results = run_with(
          graph, x[None], lambda n, value: value * masks[n] + given[n]
      )
      values = neurons.flat(results)[0].at[places].get(
          mode="fill", fill_value=0
      )
      output = results[graph.outputs[0]][0]
      return jnp.concatenate([
          values, jnp.tensordot(rows, output, output.ndim) + offsets
      ])

    zeros = jnp.zeros(places.shape, image.dtype)
    on_inputs, on_neurons = jax.jacrev(maps, (0, 1))(image, zeros)
    on_inputs = on_inputs.reshape(len(on_inputs), -1)
    constants = maps(jnp.zeros_like(image), zeros)
    return Reduced(on_neurons, on_inputs, constants)


def bounds_by(
    maps: Reduced, blocks: tuple[int, ...], group: Array,
    region, images: Array, bounds: Bounds, alpha: Array, beta: Array,
) -> Array:
  """Upper bounds of the rows of N subdomains, [N, S], without allowances.

  Args:
    maps: of G images; the subdomains are of these in turn, N / G of each.
    blocks: how many of the K places each ReLU's input has, in the graph's order.
    group: of the spec, [N].
    region, images: of each subdomain.
    bounds: of the places' neurons, (l, u), [N, K] each.
    alpha: of the places, [N, S, K].
    beta: of the places with one sign, [N, S, K].
  """
  slots = len(maps.constants)
  each, rows = len(group) // slots, alpha.shape[1]
  apart = lambda a: a.reshape((slots, each) + a.shape[1:])
  slot = jnp.arange(slots)[:, None, None]
  low, high = map(apart, bounds)
  signed = known_signs(low, high)[:, :, None] * apart(beta)
  alpha = apart(alpha)
  first = maps.on_neurons.shape[2] + apart(group) * rows
  which = first[..., None] + jnp.arange(rows)
  on_neurons = maps.on_neurons[slot, which]
  constant = maps.constants[slot, which]
  ends = list(itertools.accumulate(blocks, initial=0))
  pulled = []
  for begin, end in reversed(list(zip(ends, ends[1:]))):
    here = slice(begin, end)
    coefficients = on_neurons[..., here]
    above = jnp.maximum(coefficients, 0)
    below = jnp.minimum(coefficients, 0)
    l, u = (bound[:, :, None, here] for bound in (low, high))
    is_open = (l < 0) & (u > 0)
    slope = jnp.where(is_open, u / jnp.where(is_open, u - l, 1), l >= 0)
    least = jnp.where(is_open, alpha[..., here], l >= 0)
    own = above * slope + below * least + signed[..., here]
    offset = jnp.where(is_open, -l * slope, 0)
    constant += jnp.sum(above * offset, axis=-1)
    if begin:
      more = _product(own, maps.on_neurons[:, here, :begin])
      on_neurons = on_neurons[..., :begin] + more
    pulled.insert(0, own)
  # Places that are none add nothing: their maps are 0, and nothing reaches them.
  own = jnp.concatenate(pulled, axis=-1)
  count = maps.on_neurons.shape[2]
  constant += _product(own, maps.constants[:, :count, None])[..., 0]
  on_inputs = _product(own, maps.on_inputs[:, :count])
  on_inputs += maps.on_inputs[slot, which]
  return (constant + _largest(on_inputs, region, images, apart)).reshape(
      len(group), rows
  )


def _product(own: Array, matrices: Array) -> Array:
  """[G, N/G, S, k] times [G, k, m]."""
  flat = own.reshape(own.shape[0], -1, own.shape[-1])
  return jnp.matmul(flat, matrices).reshape(own.shape[:-1] + matrices.shape[2:])


def _largest(rows: Array, region, images: Array, apart) -> Array:
  """The largest values of rows on the input, [G, N/G, S]."""
  if isinstance(region, L2):
    flat = rows.reshape((-1,) + rows.shape[2:3] + images.shape[1:])
    return apart(region.linear_max(flat, images))
  low, high = (apart(b.reshape(len(b), -1)) for b in region.bounds(images))
  middle, radius = low / 2 + high / 2, high / 2 - low / 2
  return (
      jnp.matmul(rows, middle[..., None])
      + jnp.matmul(jnp.abs(rows), radius[..., None])
  )[..., 0]
