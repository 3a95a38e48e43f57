"""A model of time and memory: any network of ours on any number of devices.

From the number of parameters P, of ReLU units U and of multiply-adds M of one
example; B images a step are split over D devices. It assumes that

- a step on a point and a box is worth 9 forward passes (a point's, and twice as
  much for gradients; a box has a center and a radius), of 2 M operations an image
  each, at one rate on a device, whatever the layer;
- gradients are averaged in a ring: 2 (D-1)/D times 4 P bytes go out of each
  device, after the step's products and not during them;
- a device holds weights, gradients and two moments of Adam (16 P bytes,
  replicated), and for its B/D images a point, a center and a radius before and
  after each ReLU (24 U bytes an image, split);
- Box is 2 forward passes of an image, and HBox at most one more for each input
  variable, whose generator it carries until it is merged or the network ends.
"""

import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.domains.product import example_shape
from diffai_jax.networks import describe
from diffai_jax.nn import Conv2D, Linear
from diffai_jax.training.cost import PASSES

_FLOAT = 4  # Bytes.


@dataclasses.dataclass(frozen=True)
class Model:
  """The sizes of a network, and what follows from them.

  Attributes:
    parameters, relus, products: of the network; multiply-adds of one example.
    inputs: numbers of an image.
    batch: images of a step, over all devices.
  """

  parameters: int
  relus: int
  products: int
  inputs: int
  batch: int

  @classmethod
  def of(
      cls, network: nn.Module, image_shape: tuple[int, ...], batch: int
  ) -> "Model":
    """The model of a network of layers of `diffai_jax.nn`."""
    sizes = describe(network, image_shape)
    return cls(
        sizes.parameters, sizes.relus, products_of(network, image_shape),
        math.prod(image_shape), batch,
    )

  def step_flops(self) -> float:
    """Operations of a step, over all devices."""
    return PASSES * 2 * self.products * self.batch

  def step_seconds(self, devices: int, flops: float, link: float) -> float:
    """Seconds of a step.

    Args:
      devices: over which the batch is split.
      flops: operations a second of one device.
      link: bytes a second that leave one device.
    """
    reduced = 2 * (devices - 1) / devices * _FLOAT * self.parameters
    return self.step_flops() / devices / flops + reduced / link

  def bytes_on(self, devices: int) -> float:
    """What a step takes on one of so many devices."""
    replicated = 4 * _FLOAT * self.parameters
    return replicated + 6 * _FLOAT * self.relus * self.batch / devices

  def box_flops(self) -> float:
    """Operations of bounding one image with Box."""
    return 2 * 2 * self.products

  def hbox_flops(self) -> float:
    """The most operations that HBox takes for one image."""
    return (2 + self.inputs) * 2 * self.products


def products_of(network: nn.Module, image_shape: tuple[int, ...]) -> int:
  """Multiply-adds of one example in layers of `diffai_jax.nn`.

  Those with padding count. The network is traced on shapes alone.
  """
  found = []

  def listen(call, args, kwargs, context):
    result, layer = call(*args, **kwargs), context.module
    if context.method_name == "__call__" and isinstance(layer, (Conv2D, Linear)):
      window = getattr(layer, "kernel_size", 1) ** 2
      channels = example_shape(args[0])[-1]
      found.append(math.prod(result.shape[1:]) * window * channels)
    return result

  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  with nn.intercept_methods(listen):
    jax.eval_shape(network.init, jax.random.key(0), images)
  return sum(found)
