"""The training steps of `benchmarks.training`, plainly, in PyTorch.

Written from the formulas, for comparison: a network's layers are read off ours,
so that both are the same, and their weights are copied. Everything else is
eager PyTorch with its own kernels, automatic gradients and optimiser.

A box is a center c and a radius r ≥ 0. Through x ↦ Wx + b they become Wc + b
and |W|r, through a ReLU the middle and half the width of [relu(c - r),
relu(c + r)]; sums and concatenations of boxes are those of their centers and
radii. The last layer is taken together with the label y: the margin of class k
is bounded by (w_k - w_y)·c + b_k - b_y + |w_k - w_y|·r, and the loss is
log Σ_k exp of it.

Images are NCHW floats in [0, 1].
"""

import dataclasses
import functools
import itertools
from typing import Callable, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from benchmarks import timing
from diffai_jax import nn as ours
from diffai_jax.goals import Context, ball, objective
from diffai_jax.job import Job
from diffai_jax.types import Mode

torch.set_num_threads(timing.THREADS)
torch.set_flush_denormal(True)  # As XLA does.


@dataclasses.dataclass(frozen=True)
class Column:
  """What a step trains on.

  Attributes:
    box: whether on a box as well as on the point.
    sampled: whether the box is half as wide, around a random point.
    attack_steps: of the point, by IFGSM.
  """

  box: bool
  sampled: bool
  attack_steps: int


# By the columns of `benchmarks.training`.
COLUMNS = {
    "a": Column(False, False, 0),
    "b": Column(True, False, 0),
    "c": Column(True, True, 0),
    "d": Column(True, True, 3),
}
_TOLERANCE = 1e-4


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


class Step:
  """A training step; called without arguments it takes one.

  Attributes:
    network: what is trained.
    column: what on.
    epsilon: radius of the box around an image.
    stacked: whether points and centers go through a layer in one tensor.
  """

  def __init__(
      self, network: Network, column: Column, epsilon: float, images: Tensor,
      labels: Tensor, stacked: bool = False, learning_rate: float = 1e-5,
  ):
    self.network, self.column, self.epsilon = network, column, epsilon
    self.stacked = stacked
    self._images, self._labels = images, labels
    self._weights = list(network.parameters())
    self._optimizer = torch.optim.Adam(
        self._weights, learning_rate, fused=True
    )

  def __call__(self) -> None:
    self._optimizer.zero_grad(set_to_none=True)
    self.loss().backward()
    nn.utils.clip_grad_norm_(self._weights, 1.0)
    self._optimizer.step()

  def loss(self, noise: Tensor | None = None) -> Tensor:
    """Half the point's loss and half the box's; the point's without a box.

    Args:
      noise: where in its range a sampled box is, from 0 to 1 a pixel; None
        draws it.
    """
    images, column = self._images, self.column
    lower = (images - self.epsilon).clamp_(0, 1)
    upper = (images + self.epsilon).clamp_(0, 1)
    center, reach = (lower + upper) / 2, (upper - lower) / 2
    points = self._attacked(center, reach, lower, upper)
    if not column.box:
      return self.network.losses(Value((points,), None), self._labels)[0]
    if column.sampled:
      reach = reach / 2
      noise = torch.rand_like(center) if noise is None else noise
      center = center + (2 * noise - 1) * reach
    linear = (points, center)
    if self.stacked:
      linear = (torch.cat(linear),)
    losses = self.network.losses(Value(linear, reach), self._labels)
    return (losses[0] + losses[1]) / 2

  def _attacked(self, center, reach, lower, upper) -> Tensor:
    """IFGSM_k: k steps of reach/k by the gradient's signs, within the box."""
    points, steps = center, self.column.attack_steps
    for _ in range(steps):
      points = points.detach().requires_grad_()
      loss = self.network.losses(Value((points,), None), self._labels)[0]
      (slope,) = torch.autograd.grad(loss, points)
      points = points.detach() + slope.sign() * reach / steps
      points = torch.clamp(points, lower, upper)
    return points


def images_for_torch(images: np.ndarray, dtype=np.float32) -> Tensor:
  """uint8 NHWC as NCHW from 0 to 1."""
  return torch.tensor(images.transpose(0, 3, 1, 2).astype(dtype) / 255)


def fastest_step(job: Job, params: dict, column: str) -> tuple[Step, str]:
  """The step in the fastest of four forms, tried on the spot; and its name.

  Points and centers stacked or apart, channels last or first in memory.
  """
  images, labels = timing.random_batch(job)
  images, labels = images_for_torch(images), torch.tensor(labels).long()
  formats = {
      "NCHW": torch.contiguous_format, "NHWC": torch.channels_last,
  }
  stackings = (False, True) if COLUMNS[column].box else (False,)
  steps = {}
  for (name, layout), stacked in itertools.product(formats.items(), stackings):
    network = build(job.network, params, job.dataset.image_shape)
    steps[f"{name}{', stacked' if stacked else ''}"] = Step(
        network.to(memory_format=layout), COLUMNS[column], job.config.epsilon,
        images.contiguous(memory_format=layout), labels, stacked,
    )
  times = timing.interleaved(steps, rounds=2, seconds=2.0, most=10)
  best = min(times, key=lambda name: min(times[name]))
  return steps[best], best


def check(job: Job, params: dict, column: str) -> float:
  """Compares loss and gradients with ours, on the same weights and two images.

  In float64, where our allowance for rounding is nothing. Points that are drawn
  are the center here.

  Args:
    job: has the network and the goal.
    params: our weights.
    column: a key of COLUMNS.

  Returns:
    The largest difference of the loss or of a weight's gradient, relative.

  Raises:
    ValueError: if it is above 1e-4.
  """
  images, labels = timing.random_batch(job, seed=1)
  images, labels = images[:2], labels[:2]
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  shape = job.dataset.image_shape
  loss, gradient = _ours(job, params, images, labels)
  expected = build(job.network, gradient, shape)
  network = build(job.network, params, shape)
  differences = []
  for stacked in (False, True) if COLUMNS[column].box else (False,):
    inputs = images_for_torch(images, np.float64)
    step = Step(
        network, COLUMNS[column], job.config.epsilon, inputs,
        torch.tensor(labels).long(), stacked,
    )
    value = step.loss(torch.full_like(inputs, 0.5))
    own = torch.autograd.grad(value, list(network.parameters()))
    pairs = zip(own, expected.parameters(), strict=True)
    differences.append(abs(value.item() - loss) / abs(loss))
    differences += [
        ((x - y).norm() / (y.norm() + 1e-30)).item() for x, y in pairs
    ]
  largest = max(differences)
  if not largest <= _TOLERANCE:
    raise ValueError(
        f"column {column} of {job.config.network}: PyTorch's loss or gradients"
        f" differ from ours by {largest:.1e}, relative"
    )
  return largest


def _ours(job: Job, params: dict, images, labels) -> tuple[float, dict]:
  """Our loss and its gradient, in float64."""
  goal = objective(job.config.goal.replace("Uniform", "Point"))
  network, epsilon = job.network, job.config.epsilon

  def loss(params, images, labels):
    fixed = jax.lax.stop_gradient(params)
    context = Context(
        forward=lambda x, mode: network.apply({"params": fixed}, x, mode),
        labels=labels, epoch=jnp.zeros(()),
    )
    value = goal.abstract(*ball(images, epsilon), context)
    output = network.apply({"params": params}, value, Mode.TRAIN)
    return goal.loss(output, labels, context).mean()

  with jax.enable_x64(True):
    value, gradient = jax.jit(jax.value_and_grad(loss))(
        params, jnp.asarray(images / 255.0), jnp.asarray(labels)
    )
    return float(value), jax.tree.map(np.asarray, gradient)
