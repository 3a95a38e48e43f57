"""The networks of `benchmarks.training` in PyTorch, on points and boxes.

Written from the formulas, for comparison: a network's layers are read off ours,
so that both are the same, and their weights are copied. Everything else is
eager PyTorch with its own kernels.

A box is a center c and a radius r ≥ 0. Through x ↦ Wx + b they become Wc + b
and |W|r, through a ReLU the middle and half the width of [relu(c - r),
relu(c + r)]; sums and concatenations of boxes are those of their centers and
radii. The last layer is taken together with the label y: the margin of class k
is bounded by (w_k - w_y)·c + b_k - b_y + |w_k - w_y|·r, and the loss is
log Σ_k exp of it.

Images are NCHW.
"""

import functools
from typing import Callable, NamedTuple

import jax
import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from diffai_jax import nn as ours


class Value(NamedTuple):
  """What goes from layer to layer.

  Attributes:
    linear: what W itself is applied to: the points, or the points and the
      box's centers, or both in one tensor one after the other.
    radius: of the box, or None without one.
  """

  linear: tuple[Tensor, ...]
  radius: Tensor | None

  def halves(self) -> tuple[Tensor, Tensor]:
    """Points and centers."""
    if len(self.linear) == 2:
      return self.linear
    return self.linear[0].chunk(2)

  def replaced(self, points: Tensor, center: Tensor, radius: Tensor) -> "Value":
    """Others, held as these are."""
    if len(self.linear) == 2:
      return Value((points, center), radius)
    return Value((torch.cat((points, center)),), radius)


class Affine(nn.Module):
  """A convolution or dense layer, `apply(x, weight, bias)`."""

  def __init__(self, weight: np.ndarray, bias: np.ndarray, apply: Callable):
    super().__init__()
    self.weight = nn.Parameter(torch.tensor(np.array(weight)))
    self.bias = nn.Parameter(torch.tensor(np.array(bias)))
    self.apply_to = apply

  def forward(self, value: Value) -> Value:
    linear = [self.apply_to(x, self.weight, self.bias) for x in value.linear]
    radius = value.radius
    if radius is not None:
      radius = self.apply_to(radius, self.weight.abs(), None)
    return Value(tuple(linear), radius)


class Normalize(nn.Module):
  """(x - mean) / std a channel."""

  def __init__(self, mean, std, dtype):
    super().__init__()
    std = torch.tensor(np.array(std, dtype)).view(-1, 1, 1)
    mean = torch.tensor(np.array(mean, dtype)).view(-1, 1, 1)
    self.register_buffer("factor", 1 / std)
    self.register_buffer("shift", -mean / std)

  def forward(self, value: Value) -> Value:
    linear = [x * self.factor + self.shift for x in value.linear]
    radius = value.radius
    if radius is not None:
      radius = radius * self.factor
    return Value(tuple(linear), radius)


class Everywhere(nn.Module):
  """A map that does the same to points, centers and radii."""

  def __init__(self, function: Callable[[Tensor], Tensor]):
    super().__init__()
    self.function = function

  def forward(self, value: Value) -> Value:
    radius = value.radius
    if radius is not None:
      radius = self.function(radius)
    return Value(tuple(map(self.function, value.linear)), radius)


class ReLU(nn.Module):

  def forward(self, value: Value) -> Value:
    if value.radius is None:
      return Value(tuple(map(F.relu, value.linear)), None)
    points, center = value.halves()
    low = (center - value.radius).relu_()
    high = (center + value.radius).relu_()
    middle, half = (low + high).mul_(0.5), (high - low).mul_(0.5)
    return value.replaced(F.relu(points), middle, half)


class Join(nn.Module):
  """Two chains on the same input; `join` takes both tensors in a tuple."""

  def __init__(self, first: nn.Module, second: nn.Module, join: Callable):
    super().__init__()
    self.first, self.second, self.join = first, second, join

  def forward(self, value: Value) -> Value:
    first, second = self.first(value), self.second(value)
    linear = tuple(map(self.join, zip(first.linear, second.linear)))
    if first.radius is None:
      return Value(linear, None)
    return Value(linear, self.join((first.radius, second.radius)))


class Network(nn.Module):
  """All layers but the last, and the losses behind the last."""

  def __init__(self, layers: list[nn.Module]):
    super().__init__()
    self.body = nn.Sequential(*layers[:-1])
    self.last = layers[-1]

  def losses(self, value: Value, labels: Tensor) -> list[Tensor]:
    """The mean loss of the points and, with a box, that of the box."""
    value = self.body(value)
    weight, bias = self.last.weight, self.last.bias
    if value.radius is None:
      return [F.cross_entropy(F.linear(*value.linear, weight, bias), labels)]
    points, center = value.halves()
    difference = weight - weight[labels][:, None]  # [B, K, n].
    margin = torch.bmm(difference, center[:, :, None])
    margin = margin + torch.bmm(difference.abs(), value.radius[:, :, None])
    margin = margin[:, :, 0] + bias - bias[labels][:, None]
    return [
        F.cross_entropy(F.linear(points, weight, bias), labels),
        margin.logsumexp(dim=1).mean(),
    ]


def build(network: ours.Sequential, params: dict, image_shape) -> Network:
  """Our network, or anything else of its weights' shapes, such as gradients.

  Args:
    network: as `networks.create` makes it, without abstract layers.
    params: its weights.
    image_shape: of one example, [H, W, C].

  Raises:
    TypeError: if it has layers that this file has no counterpart of.
  """
  dtype = jax.tree.leaves(params)[0].dtype

  def chain(layers, weights, shape) -> tuple[list[nn.Module], tuple]:
    """The layers' counterparts, and the shape that they lead to."""
    modules = []
    for number, layer in enumerate(layers):
      own = weights.get(f"layers_{number}", {})
      more, shape = translated(layer, own, shape)
      modules += more
    return modules, shape

  def translated(layer, weights, shape) -> tuple[list[nn.Module], tuple]:
    match layer:
      case ours.Sequential():
        return chain(layer.layers, weights, shape)
      case ours.ParSum() | ours.SkipCat():
        first, one = chain(layer.first.layers, weights.get("first", {}), shape)
        second, two = chain(
            layer.second.layers, weights.get("second", {}), shape
        )
        branches = nn.Sequential(*first), nn.Sequential(*second)
        if isinstance(layer, ours.ParSum):
          return [Join(*branches, lambda pair: pair[0] + pair[1])], one
        together = (*one[:2], one[2] + two[2])
        return [Join(*branches, lambda pair: torch.cat(pair, 1))], together
      case ours.Conv2D():
        kernel = np.transpose(weights["kernel"], (3, 2, 0, 1))
        padding, stride = layer.padding, layer.stride
        apply = functools.partial(F.conv2d, stride=stride, padding=padding)
        sides = _windows(shape, layer.kernel_size, stride, padding)
        return [Affine(kernel, weights["bias"], apply)], (*sides, layer.filters)
      case ours.Linear():
        kernel = np.asarray(weights["kernel"])
        if len(shape) == 3:  # A flattened image: our channels come last.
          kernel = kernel.reshape(*shape, -1).transpose(2, 0, 1, 3)
          kernel = kernel.reshape(-1, layer.features)
        module = Affine(kernel.T, weights["bias"], F.linear)
        return [module], (layer.features,)
      case ours.ReLU():
        return [ReLU()], shape
      case ours.AvgPool2D():
        stride, padding = layer.stride or layer.window, layer.padding
        pool = functools.partial(
            F.avg_pool2d, kernel_size=layer.window, stride=stride,
            padding=padding,
        )
        sides = _windows(shape, layer.window, stride, padding)
        return [Everywhere(pool)], (*sides, shape[2])
      case ours.Normalize():
        return [Normalize(layer.mean, layer.std, dtype)], shape
      case ours.Flatten():
        return [Everywhere(lambda x: x.flatten(1))], shape
      case ours.CorrelateAll():  # The last layer's differences do its work.
        return [], shape
    raise TypeError(f"no counterpart of {type(layer).__name__} in PyTorch")

  return Network(translated(network, params, tuple(image_shape))[0])


def _windows(shape, size: int, stride: int, padding: int) -> tuple[int, ...]:
  return tuple((n + 2 * padding - size) // stride + 1 for n in shape[:2])
