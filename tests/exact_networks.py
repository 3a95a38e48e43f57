"""Random networks in NumPy's long double: what they are in exact arithmetic.

Written from the definitions of the layers, not with the functions under test.
"""

import collections

import numpy as np
import random_networks
from scipy import special

from diffai_jax import nn as layers

LONG = np.longdouble
_SELU = (LONG(1.6732632423543772), LONG(1.0507009873554805))


def evaluate(network, params: dict, x: np.ndarray) -> np.ndarray:
  """What the steps of a `random_networks.Network` give, side by side, [N, n].

  Args:
    network: what was drawn.
    params: its weights.
    x: images [N, H, W, C], of any type.
  """
  names, seen = _Names(params), []
  x = _run(network.body, x.astype(LONG), names, seen)
  x = _run(network.tail, x.reshape(len(x), -1), names, seen)
  return np.concatenate([*seen, _linear(x, names.take("Linear"))], axis=1)


class _Names:
  """The parameters of a scope; Flax numbers its modules class by class."""

  def __init__(self, params: dict):
    self._params = params
    self._counts = collections.Counter()

  def take(self, kind: str) -> dict:
    """Those of the next module of a class; {} if it has none."""
    number = self._counts[kind]
    self._counts[kind] += 1
    return self._params.get(f"{kind}_{number}", {})


def _run(steps, x, names, seen=None):
  for kind, arguments in steps:
    if kind == "gather":
      x = x[..., [i % x.shape[-1] for i in arguments]]
    elif kind == "sum":
      x = x.sum(axis=2).reshape(len(x), -1, 1, 1)
    elif kind == "scale":
      x = x * LONG(arguments[0]) + LONG(arguments[1])
    else:
      x = _layer(kind, dict(arguments), x, names)
    if seen is not None:
      seen.append(x.reshape(len(x), -1))
  return x


def _layer(kind, options, x, names):
  own = names.take(kind.__name__)
  if kind is random_networks.Residual:
    return _residual(options, x, _Names(own))
  if kind is layers.Linear:
    return _linear(x, own)
  if kind is layers.Conv2D:
    options = {"stride": 1, "padding": 0} | options
    return _conv(x, own, options["stride"], options["padding"])
  if kind is layers.ConvTranspose2D:
    return _conv_transpose(x, own)
  if kind in (layers.MaxPool2D, layers.AvgPool2D):
    return _pool(kind is layers.MaxPool2D, x, **options)
  if kind is layers.GlobalAvgPool2D:
    return x.mean(axis=(1, 2))
  # Abstract layers are the identity.
  return _ACTIVATIONS.get(kind, lambda v: v)(x)


def _residual(options, x, names):
  if options["meet"] == "same":
    return np.maximum(x, 0) - np.maximum(-x, 0)
  one, other = (_run(options[k], x, names) for k in ("first", "second"))
  if options["meet"] == "concat":
    axis = options.get("axis", -1)
    return np.concatenate([one, other], axis if axis < 0 else axis + 1)
  return one + other if options["meet"] == "add" else one - other


def _linear(x, params):
  return x @ params["kernel"].astype(LONG) + params["bias"].astype(LONG)


def _conv(x, params, stride, padding):
  kernel = params["kernel"].astype(LONG)
  x = np.pad(x, ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0)))
  size = kernel.shape[0]
  height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
  total = params["bias"].astype(LONG)
  for p in range(size):
    for q in range(size):
      seen = x[:, p : p + (height - 1) * stride + 1 : stride,
               q : q + (width - 1) * stride + 1 : stride]
      total = total + seen @ kernel[p, q]
  return total


def _conv_transpose(x, params):
  kernel = params["kernel"].astype(LONG)
  _, height, width, _ = x.shape
  size = kernel.shape[0]
  shape = (len(x), height + size - 1, width + size - 1, kernel.shape[3])
  total = np.zeros(shape, LONG) + params["bias"].astype(LONG)
  for p in range(size):
    for q in range(size):
      total[:, p : p + height, q : q + width] += x @ kernel[p, q]
  return total


def _pool(largest, x, window, stride=None, padding=0):
  stride = stride or window
  fill = -np.inf if largest else 0
  pads = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
  x = np.pad(x, pads, constant_values=fill)
  height, width = ((n - window) // stride + 1 for n in x.shape[1:3])
  seen = np.stack([
      x[:, p : p + (height - 1) * stride + 1 : stride,
        q : q + (width - 1) * stride + 1 : stride]
      for p in range(window)
      for q in range(window)
  ])
  return seen.max(axis=0) if largest else seen.mean(axis=0)


def _exponential_below(x):
  """exp(x) - 1 left of 0."""
  return np.expm1(np.minimum(x, 0))


def _selu(x):
  alpha, scale = _SELU
  return scale * np.where(x > 0, x, alpha * _exponential_below(x))


def _gelu(x):
  """In float64: off by far less than what bounds allow for."""
  return x / 2 * special.erfc(np.float64(-x / np.sqrt(LONG(2))))


_ACTIVATIONS = {
    layers.ReLU: lambda x: np.maximum(x, 0),
    layers.LeakyReLU: lambda x: np.where(x > 0, x, LONG(0.01) * x),
    layers.ELU: lambda x: np.where(x > 0, x, _exponential_below(x)),
    layers.SELU: _selu,
    layers.Softplus: lambda x: np.logaddexp(x, LONG(0)),
    layers.Sigmoid: lambda x: (1 + np.tanh(x / 2)) / 2,
    layers.Tanh: np.tanh,
    layers.GELU: _gelu,
}
