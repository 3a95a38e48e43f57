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

from collections.abc import Callable
import dataclasses
import functools
import math

from flax import linen as nn
import jax
import numpy as np

from diffai_jax import nn as layers
from diffai_jax import transformers
from diffai_jax.domains import rounding
from diffai_jax.kernels import precision
from diffai_jax.kernels.platforms import platform_name
from diffai_jax.types import Array, UsageError

_PLACES = 24  # Outputs that are compared, beside two corners; all channels.
_NOT_ZERO = 8  # What a sum of the sparse images has about, of numbers not 0.
_SPREAD = 12
_KINDS = (layers.Conv2D, layers.Linear, layers.ConvTranspose2D)


@dataclasses.dataclass(frozen=True)
class _Call:
  """A call of an affine layer.

  Attributes:
    path: the layer's.
    kind: its class.
    shape: of one example of its input.
    stride, padding: of a convolution.
  """

  path: tuple[str, ...]
  kind: type
  shape: tuple[int, ...]
  stride: int = 1
  padding: int = 0

  def __call__(self, x: Array, kernel: Array, bias: Array) -> Array:
    if self.kind is layers.Linear:
      return transformers.dense(x, kernel, bias)
    transposed = self.kind is layers.ConvTranspose2D
    convolve = transformers.conv_transpose if transposed else transformers.conv
    return convolve(x, kernel, bias, stride=self.stride, padding=self.padding)


def check(
    network: nn.Module, params: dict, image_shape: tuple[int, ...], dtype
) -> None:
  """Compares every affine layer with float64, within its allowance.

  Args:
    network: called as network(x).
    params: its weights.
    image_shape: of one example.
    dtype: what the network computes in.

  Raises:
    UsageError: if one is off by more than proofs allow for.
  """
  rng = np.random.default_rng(0)
  found = _calls(network, params, image_shape, dtype, rng)
  inputs = [
      _inputs(rng, call, kernel.shape).astype(dtype)
      for call, (kernel, _) in found.items()
  ]

  with precision.for_losses(False):
    outputs = _run(tuple(found), inputs, list(found.values()))
  for (call, weights), x, y in zip(found.items(), inputs, outputs):
    kernel, bias = map(np.asarray, weights)
    excess = _excess(rng, call, x, kernel, bias, np.asarray(y))
    if excess > 1:
      raise UsageError(
          f"{'/'.join(call.path)} is off by {excess:.3g} times the error that"
          f" proofs allow for, as {platform_name()} computes it here, so"
          f" no proof would hold; certify on CPUs (JAX_PLATFORMS=cpu), or"
          f" without flags for XLA (XLA_FLAGS, --config.xla_flags=false)"
      )


@functools.partial(jax.jit, static_argnums=0)
def _run(calls: tuple[_Call, ...], inputs, weights) -> list[Array]:
  """Each call on its input; compiled once for the networks of these layers."""
  return [call(x, *own) for call, x, own in zip(calls, inputs, weights)]


def _calls(
    network: nn.Module, params: dict, image_shape: tuple[int, ...], dtype, rng
) -> dict[_Call, tuple[Array, Array]]:
  """Kernel and bias of each call of an affine layer, in their order.

  A layer in a lifted transformation does not show its weights: random ones of
  their shape stand for them.
  """
  found = {}

  def drawn(weight):
    if isinstance(weight, jax.core.Tracer):
      return rng.standard_normal(weight.shape).astype(weight.dtype)
    return weight

  def intercept(call: Callable, args, kwargs, context):
    module = context.module
    kind = next((k for k in _KINDS if isinstance(module, k)), None)
    if kind and context.method_name == "__call__":
      own = module.variables["params"]
      called = _Call(
          tuple(module.path), kind, args[0].shape[1:],
          getattr(module, "stride", 1), getattr(module, "padding", 0),
      )
      found[called] = drawn(own["kernel"]), drawn(own["bias"])
    return call(*args, **kwargs)

  def forward(x):
    with nn.intercept_methods(intercept):
      return network.apply({"params": params}, x)

  jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *image_shape), dtype))
  return found


def _inputs(rng, call: _Call, kernel_shape: tuple[int, ...]) -> np.ndarray:
  """Two examples, the second sparse, [2, ...]."""
  shape = (2, *call.shape)
  sizes = np.exp2(rng.uniform(-_SPREAD, _SPREAD, shape))
  x = sizes * rng.choice([-1, 1], shape)
  density = min(1, _NOT_ZERO / math.prod(kernel_shape[:-1]))
  x[1] *= rng.uniform(size=call.shape) < density
  return x


def _excess(rng, call, x, kernel, bias, y) -> float:
  """The largest error at some outputs, in units of what is allowed for."""
  if call.kind is layers.Linear:
    windows, outputs = x[:, None], y[:, None]
  else:
    places = rng.integers(0, y.shape[1] * y.shape[2], _PLACES)
    places = [0, y.shape[1] * y.shape[2] - 1, *places]
    windows = _windows(call, x, kernel.shape, y.shape[2], places)
    outputs = y.reshape(len(y), -1, y.shape[3])[:, places]
  weights = kernel.reshape(-1, kernel.shape[-1])
  weights, bias = weights.astype(np.float64), bias.astype(np.float64)
  # Hardware may take subnormal weights for 0: they are left outside of proofs.
  subnormal = np.abs(weights) * (np.abs(weights) < np.finfo(y.dtype).tiny)
  worst = 0.0
  with np.errstate(all="ignore"):  # Weights may be anything.
    for window, output in zip(_rows(windows), _rows(outputs)):
      used = window != 0
      terms = np.count_nonzero(used)
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


def _rows(values: np.ndarray) -> np.ndarray:
  return values.reshape(-1, values.shape[-1]).astype(np.float64)


def _windows(call, x, kernel_shape, width, places) -> np.ndarray:
  """What some output pixels sum, [2, P, kh·kw·C].

  Args:
    call, x: the convolution and its input.
    kernel_shape: [kh, kw, C, F].
    width: of its output.
    places: P indices of pixels of the flattened output.
  """
  windows = []
  for place in places:
    down, above = _sources(call, place // width, kernel_shape[0], x.shape[1])
    across, left = _sources(call, place % width, kernel_shape[1], x.shape[2])
    inside = (above[:, None] & left)[..., None]
    window = x[:, down][:, :, across] * inside
    windows.append(window.reshape(len(x), -1))
  return np.stack(windows, axis=1)


def _sources(call: _Call, place: int, taps: int, size: int):
  """The input index behind each tap of an output, and whether there is one."""
  tap = np.arange(taps)
  if call.kind is layers.ConvTranspose2D:
    shifted = place + call.padding - tap
    source, exists = shifted // call.stride, shifted % call.stride == 0
  else:
    source = place * call.stride - call.padding + tap
    exists = True
  inside = (source >= 0) & (source < size) & exists
  return np.where(inside, source, 0), inside
