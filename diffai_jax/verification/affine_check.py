"""Whether this machine's arithmetic is what proofs allow for.

The error model of `domains.rounding` holds for sums of products in any order.
Algorithms that add before they multiply (Winograd, FFT) and factors that are
cut short (TF32) are outside of it, and which of them a library takes is seen
only in what it computes. So each affine layer of a network is run once, and
compared with float64 sums of NumPy's at some of its outputs.

Inputs are made to tell the difference. Their sizes span 2^±12: an algorithm
that mixes neighbours spoils small ones beside large ones. Half of the images
have few numbers that are not 0, and an output sums only those: what is allowed
for is then a few roundings, and no long sum hides short factors.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.domains import rounding
from diffai_jax.graph import Graph
from diffai_jax.kernels import geometry, precision
from diffai_jax.kernels.platforms import platform_name
from diffai_jax.transformers import apply
from diffai_jax.types import Array, UsageError

_PLACES = 24  # Outputs that are compared, beside two corners; all channels.
_NOT_ZERO = 8  # What a sum of the sparse images has about, of numbers not 0.
_SPREAD = 12
_KINDS = ("dense", "conv", "conv_transpose")


@dataclasses.dataclass(frozen=True)
class _Layer:
  """A call of an affine transformer, without its arrays.

  Attributes:
    name: of the layer, for messages.
    transformer: one of _KINDS.
    shape: of one example of its input.
    options: of the call.
  """

  name: str
  transformer: str
  shape: tuple[int, ...]
  options: tuple[tuple[str, Any], ...]

  def __call__(self, x: Array, arrays: dict[str, Array]) -> Array:
    return apply(self.transformer, (x,), arrays, dict(self.options))


def check(graph: Graph, dtype) -> None:
  """Compares every affine layer with float64, within its allowance.

  Args:
    graph: the network, with known weights. A layer that is called twice on
      inputs of one shape is compared once.
    dtype: what the network computes in.

  Raises:
    UsageError: if one is off by more than proofs allow for.
  """
  rng = np.random.default_rng(0)
  found = {}
  for call in graph.calls:
    if call.transformer in _KINDS:
      name = call.name.partition("#")[0]
      shape = graph.shape(call.inputs[0])
      layer = _Layer(name, call.transformer, shape, call.options)
      arrays = {key: jnp.asarray(a, dtype) for key, a in call.arrays.items()}
      found[layer] = arrays
  inputs = [
      _inputs(rng, layer, arrays["kernel"].shape).astype(dtype)
      for layer, arrays in found.items()
  ]

  with precision.for_losses(False):
    outputs = _run(tuple(found), inputs, list(found.values()))
  for (layer, arrays), x, y in zip(found.items(), inputs, outputs):
    kernel, bias = map(np.asarray, (arrays["kernel"], arrays["bias"]))
    excess = _excess(rng, layer, x, kernel, bias, np.asarray(y))
    if excess > 1:
      raise UsageError(
          f"{layer.name or layer.transformer} is off by {excess:.3g} times the"
          f" error that proofs allow for, as {platform_name()} computes it here,"
          f" so no proof would hold; certify on CPUs (JAX_PLATFORMS=cpu), or"
          f" without flags for XLA (XLA_FLAGS, --config.xla_flags=false)"
      )


@functools.partial(jax.jit, static_argnums=0)
def _run(layers: tuple[_Layer, ...], inputs, arrays) -> list[Array]:
  """Each layer on its input; compiled once for the networks of these layers."""
  return [layer(x, own) for layer, x, own in zip(layers, inputs, arrays)]


def _inputs(rng, layer: _Layer, kernel_shape: tuple[int, ...]) -> np.ndarray:
  """Two examples, the second sparse, [2, ...]."""
  shape = (2, *layer.shape)
  sizes = np.exp2(rng.uniform(-_SPREAD, _SPREAD, shape))
  x = sizes * rng.choice([-1, 1], shape)
  density = min(1, _NOT_ZERO / math.prod(kernel_shape[:-1]))
  x[1] *= rng.uniform(size=layer.shape) < density
  return x


def _excess(rng, layer, x, kernel, bias, y) -> float:
  """The largest error at some outputs, in units of what is allowed for."""
  summed = math.prod(kernel.shape[:-1])  # What an output sums at the most.
  if layer.transformer == "dense":
    rows = x.reshape(2, -1, x.shape[-1])
    places = _some(rng, rows.shape[1])
    windows = rows[:, places]
    outputs = y.reshape(2, -1, y.shape[-1])[:, places]
  else:
    places = _some(rng, y.shape[1] * y.shape[2])
    kernel = np.asarray(
        geometry.expanded(kernel, 1, dict(layer.options).get("groups", 1))
    )
    windows = _windows(layer, x, kernel.shape, y.shape[2], places)
    outputs = y.reshape(len(y), -1, y.shape[3])[:, places]
  weights = kernel.reshape(-1, kernel.shape[-1])
  weights, bias = weights.astype(np.float64), bias.astype(np.float64)
  # Hardware may take subnormal weights for 0: they are left outside of proofs.
  subnormal = np.abs(weights) * (np.abs(weights) < np.finfo(y.dtype).tiny)
  worst = 0.0
  with np.errstate(all="ignore"):  # Weights may be anything.
    for window, output in zip(_rows(windows), _rows(outputs)):
      used = window != 0
      terms = min(np.count_nonzero(used), summed)
      exact = window[used] @ weights[used] + bias
      size = np.abs(window[used]) @ np.abs(weights[used]) + np.abs(bias)
      # Of the layer, and of NumPy.
      share = rounding.relative(y.dtype, terms)
      share += rounding.relative(np.float64, terms)
      allowed = share * size + rounding.absolute(y.dtype, len(weights))
      allowed += np.abs(window) @ subnormal
      # Beyond the largest float nothing is proved anyhow.
      known = size < np.finfo(y.dtype).max / 2
      excess = (np.abs(output - exact) / allowed)[known]
      excess = np.where(np.isnan(excess), np.inf, excess)
      worst = max(worst, float(excess.max(initial=0)))
  return worst


def _some(rng, count: int) -> list[int]:
  """Places of the outputs, the first and the last among them."""
  if count == 1:
    return [0]
  return [0, count - 1, *rng.integers(0, count, _PLACES)]


def _rows(values: np.ndarray) -> np.ndarray:
  return values.reshape(-1, values.shape[-1]).astype(np.float64)


def _windows(layer, x, kernel_shape, width, places) -> np.ndarray:
  """What some output pixels sum, [2, P, kh·kw·C].

  Args:
    layer, x: the convolution and its input.
    kernel_shape: [kh, kw, C, F].
    width: of its output.
    places: P indices of pixels of the flattened output.
  """
  windows = []
  for place in places:
    down, above = _sources(layer, 0, place // width, kernel_shape, x.shape)
    across, left = _sources(layer, 1, place % width, kernel_shape, x.shape)
    inside = (above[:, None] & left)[..., None]
    window = x[:, down][:, :, across] * inside
    windows.append(window.reshape(len(x), -1))
  return np.stack(windows, axis=1)


def _sources(layer: _Layer, axis: int, place: int, kernel_shape, shape):
  """The input index behind each tap of an output, and whether there is one."""
  options = dict(layer.options)
  stride = geometry.pair(options.get("stride", 1))[axis]
  low = geometry.sides(options.get("padding", 0))[axis][0]
  tap = np.arange(kernel_shape[axis])
  tap = tap * geometry.pair(options.get("dilation", 1))[axis]
  if layer.transformer == "conv_transpose":
    shifted = place + low - tap
    source, exists = shifted // stride, shifted % stride == 0
  else:
    source = place * stride - low + tap
    exists = True
  inside = (source >= 0) & (source < shape[axis + 1]) & exists
  return np.where(inside, source, 0), inside
