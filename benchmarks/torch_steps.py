"""The training steps of `benchmarks.training`, plainly, in PyTorch.

Written from the formulas, for comparison: the networks of
`benchmarks.torch_network`, automatic gradients, PyTorch's own optimiser. `check`
compares loss and gradients with ours.

Images are NCHW floats in [0, 1].
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.torch_network import Network, Value, build
from diffai_jax.app.job import Job
from diffai_jax.goals import Context, ball
from diffai_jax.objectives import objective
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


class Step:
  """A training step; called without arguments it takes one.

  Attributes:
    network: what is trained, on the device of the images.
    column: what on.
    epsilon: radius of the box around an image.
    stacked: whether points and centers go through a layer in one tensor.
    bfloat16: whether products are in bfloat16.
  """

  def __init__(
      self, network: Network, column: Column, epsilon: float, images: Tensor,
      labels: Tensor, stacked: bool = False, learning_rate: float = 1e-5,
      bfloat16: bool = False,
  ):
    self.network, self.column, self.epsilon = network, column, epsilon
    self.stacked, self.bfloat16 = stacked, bfloat16
    self._images, self._labels = images, labels
    self._weights = list(network.parameters())
    self._optimizer = torch.optim.Adam(
        self._weights, learning_rate, fused=True
    )

  def __call__(self) -> None:
    self._optimizer.zero_grad(set_to_none=True)
    device = self._images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
      loss = self.loss()
    loss.backward()
    nn.utils.clip_grad_norm_(self._weights, 1.0)
    self._optimizer.step()
    if device == "cuda":
      torch.cuda.synchronize()

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


def fastest_step(
    job: Job, params: dict, column: str, device: str = "cpu",
    precision: str = "float32",
) -> tuple[Step, str]:
  """The step in the fastest of four forms, tried on the spot; and its name.

  Points and centers stacked or apart, channels last or first in memory.

  Args:
    job: has the network, the batch and the radius.
    params: our weights.
    column: a key of COLUMNS.
    device: PyTorch's name of where it runs.
    precision: of products: "float32", "tf32" (of NVIDIA's GPUs) or "bfloat16".
  """
  torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
  torch.backends.cudnn.allow_tf32 = precision == "tf32"
  torch.backends.cudnn.benchmark = True
  images, labels = timing.random_batch(job)
  images = images_for_torch(images).to(device)
  labels = torch.tensor(labels).long().to(device)
  formats = {
      "NCHW": torch.contiguous_format, "NHWC": torch.channels_last,
  }
  stackings = (False, True) if COLUMNS[column].box else (False,)
  steps = {}
  for (name, layout), stacked in itertools.product(formats.items(), stackings):
    network = build(job.network, params, job.dataset.image_shape)
    steps[f"{name}{', stacked' if stacked else ''}"] = Step(
        network.to(device, memory_format=layout), COLUMNS[column],
        job.config.epsilon, images.contiguous(memory_format=layout), labels,
        stacked, bfloat16=precision == "bfloat16",
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
