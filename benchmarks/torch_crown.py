"""CROWN in plain PyTorch, for comparison: chains of affine layers and ReLUs.

Written from the formulas (Zhang et al. 2018; Xu et al. 2021) on a graph of ours, so
that both have the same weights: coefficients on whole layers, transposed layers by
autograd's own operations, open neurons alone in chunks over all images, slopes by
Adam. No allowance for rounding.
"""

from collections.abc import Callable
import dataclasses

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from diffai_jax.graph import Graph
from diffai_jax.kernels.geometry import pair, sides

_CHUNK = 512  # Neurons whose rows are walked at once.


@dataclasses.dataclass
class Layer:
  """An affine layer and, but for the last, a ReLU.

  Attributes:
    run: x -> W·x + b.
    absolute: x -> |W|·x.
    back: rows on its result -> rows on its input.
    bias: of one example of the result.
    shape: of one example of the result.
  """

  run: Callable[[Tensor], Tensor]
  absolute: Callable[[Tensor], Tensor]
  back: Callable[[Tensor], Tensor]
  bias: Tensor
  shape: tuple


def layers(graph: Graph) -> list[Layer]:
  """Of a chain; images are NCHW from the first layer on.

  Raises:
    ValueError: if the graph is no chain of convolutions, dense layers and ReLUs.
  """
  found, scale, flat_from = [], None, None
  shape = graph.input_shape
  for number, call in enumerate(graph.calls):
    if call.inputs != (number,):
      raise ValueError("the graph is no chain")
    name, arrays = call.transformer, {
        k: torch.tensor(np.array(v, np.float32)) for k, v in call.arrays.items()
    }
    options = dict(call.options)
    if name == "scale_shift":
      scale = arrays["factor"], arrays["shift"]
    elif name == "conv":
      kernel = arrays["kernel"].permute(3, 2, 0, 1).contiguous()
      (top, bottom), (left, right) = sides(options.get("padding", 0))
      if (top, left) != (bottom, right) or top != left:
        raise ValueError(f"padding {options['padding']}")
      found.append(_convolution(
          kernel, arrays["bias"], pair(options.get("stride", 1))[0], top,
          shape, call.shape,
      ))
    elif name == "reshape":
      flat_from = shape
    elif name == "dense":
      kernel = arrays["kernel"]
      if flat_from is not None:  # Rows are in the order of NHWC.
        height, width, channels = flat_from
        kernel = kernel.reshape(height, width, channels, -1)
        kernel = kernel.permute(2, 0, 1, 3).reshape(-1, kernel.shape[-1])
        flat_from = None
      found.append(_dense(kernel, arrays["bias"], found))
    elif name not in ("relu", "correlate_all"):
      raise ValueError(f"{name} is not compared")
    shape = call.shape
  if scale is not None:
    found[0] = _normalised(found[0], *scale, graph.input_shape)
  return found


def _convolution(kernel, bias, stride, padding, before, after) -> Layer:
  height, width, filters = after
  extra = [
      size + 2 * padding - kernel.shape[2 + axis] - (n - 1) * stride
      for axis, (size, n) in enumerate(zip(before[:2], (height, width)))
  ]
  linear = lambda k: lambda x: F.conv2d(x, k, None, stride, padding)
  return Layer(
      lambda x: F.conv2d(x, kernel, bias, stride, padding),
      linear(kernel.abs()),
      lambda rows: F.conv_transpose2d(
          rows, kernel, None, stride, padding, output_padding=tuple(extra)
      ),
      bias[:, None, None].expand(filters, height, width),
      (filters, height, width),
  )


def _dense(kernel, bias, before) -> Layer:
  shape = before[-1].shape if before else None
  back = lambda rows: rows @ kernel.T
  if shape is not None and len(shape) == 3:
    back = lambda rows: (rows @ kernel.T).reshape((-1,) + shape)
  return Layer(
      lambda x: x.flatten(1) @ kernel + bias,
      lambda x: x.flatten(1) @ kernel.abs(), back, bias, tuple(bias.shape),
  )


def _normalised(layer: Layer, factor: Tensor, shift: Tensor, image) -> Layer:
  """The first layer on images [H, W, C] that are scaled before it."""
  factor, shift = (
      a.reshape(-1, 1, 1) if a.ndim else a for a in (factor, shift)
  )
  run = lambda x: layer.run(x * factor + shift)
  height, width, channels = image
  return dataclasses.replace(
      layer,
      run=run,
      absolute=lambda x: layer.absolute(x * factor.abs()),
      back=lambda rows: layer.back(rows) * factor,
      bias=run(torch.zeros(1, channels, height, width))[0],
  )


def _relu(low: Tensor, high: Tensor):
  """Slope and offset of the line above, and the slope below."""
  is_open = (low < 0) & (high > 0)
  slope = torch.where(is_open, high / (high - low).clamp_min(1e-30), high > 0)
  offset = torch.where(is_open, -slope * low, 0.0)
  below = torch.where(is_open, (high > -low).float(), (high > 0).float())
  return slope, offset, below


class Crown:
  """Bounds of a batch of images, with one method after the other."""

  def __init__(self, graph: Graph):
    self._layers = layers(graph)

  def margins(
      self, images: np.ndarray, labels: np.ndarray, epsilon: float, method: str,
      steps: int = 0,
  ) -> np.ndarray:
    """Upper bounds of z_k - z_y, [B, K - 1].

    Args:
      images: [B, H, W, C].
      labels: [B].
      epsilon: of the box, clipped to [0, 1].
      method: "CROWN_IBP" or "CROWN".
      steps: of Adam on the lower slopes of the last walk.
    """
    x = torch.tensor(images).permute(0, 3, 1, 2).contiguous()
    box = (x - epsilon).clamp(0, 1), (x + epsilon).clamp(0, 1)
    with torch.no_grad():
      bounds, lines = [], []
      low, high = box
      for number, layer in enumerate(self._layers[:-1]):
        center, radius = (low + high) / 2, (high - low) / 2
        center, radius = layer.run(center), layer.absolute(radius)
        low, high = center - radius, center + radius
        if method == "CROWN" and number:
          low, high = self._refined(number, low, high, box, lines)
        bounds.append((low, high))
        lines.append(_relu(low, high))
        low, high = low.clamp_min(0), high.clamp_min(0)
    classes = self._layers[-1].shape[0]
    eye = torch.eye(classes)
    others = torch.stack([
        torch.cat((eye[:y], eye[y + 1:])) - eye[y] for y in labels.tolist()
    ])
    rows, count = others.flatten(0, 1), classes - 1
    which = torch.arange(len(x)).repeat_interleave(count)
    if not steps:
      with torch.no_grad():
        found = self._walk(len(self._layers) - 1, rows, which, box, lines)
    else:
      found = self._descent(rows, which, box, lines, steps)
    return found.reshape(len(x), count).numpy()

  def _walk(self, number, rows, which, box, lines, alphas=None) -> Tensor:
    total = torch.zeros(len(rows))
    while True:
      layer = self._layers[number]
      total = total + (rows * layer.bias).flatten(1).sum(1)
      rows = layer.back(rows)
      if number == 0:
        break
      number -= 1
      slope, offset, below = (line[which] for line in lines[number])
      if alphas is not None:
        is_open = offset > 0
        below = torch.where(is_open, alphas[number], below)
      above, under = rows.clamp_min(0), rows.clamp_max(0)
      total = total + (above * offset).flatten(1).sum(1)
      rows = above * slope + under * below
    low, high = (bound[which] for bound in box)
    ends = rows.clamp_min(0) * high + rows.clamp_max(0) * low
    return total + ends.flatten(1).sum(1)

  def _refined(self, number, low, high, box, lines):
    """Bounds of the open neurons by walks of their own."""
    shape = low.shape
    low, high = low.flatten(1).clone(), high.flatten(1).clone()
    images, neurons = torch.nonzero((low < 0) & (high > 0), as_tuple=True)
    for begin in range(0, len(images), _CHUNK):
      own = images[begin : begin + _CHUNK]
      places = neurons[begin : begin + _CHUNK]
      rows = F.one_hot(places, low.shape[1]).float().reshape((-1,) + shape[1:])
      both = self._walk(
          number, torch.cat((rows, -rows)), torch.cat((own, own)), box, lines
      )
      above, below = both.chunk(2)
      high[own, places] = torch.minimum(high[own, places], above)
      low[own, places] = torch.maximum(low[own, places], -below)
    return low.reshape(shape), high.reshape(shape)

  def _descent(self, rows, which, box, lines, steps) -> Tensor:
    alphas = [line[2][which].clone().requires_grad_() for line in lines]
    optimizer = torch.optim.Adam(alphas, lr=0.1)
    best = torch.full((len(rows),), torch.inf)
    for step in range(steps + 1):
      found = self._walk(
          len(self._layers) - 1, rows, which, box, lines, alphas
      )
      best = torch.minimum(best, found.detach())
      if step == steps:
        return best
      optimizer.zero_grad()
      found.sum().backward()
      optimizer.step()
      with torch.no_grad():
        for alpha in alphas:
          alpha.clamp_(0, 1)
      for group in optimizer.param_groups:
        group["lr"] *= 0.98
