"""Affine layers. On arrays they compute, on elements they bound.

Every layer is called as `layer(x, mode)`, whatever x is, and `describe` gives
its line in the listings of the paper's appendix D.
"""

from typing import Callable

from flax import linen as nn
import jax.numpy as jnp

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape, value_dtype
from diffai_jax.nn import initializers
from diffai_jax.nn.observation import observe
from diffai_jax.types import Mode, UsageError


class Normalize(nn.Module):
  """(x - mean) / std a channel, fixed, so that ε is in pixel space.

  Attributes:
    mean, std: a number a channel of the last axis.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    dtype = value_dtype(x)
    std = jnp.asarray(self.std, dtype)
    shift = -jnp.asarray(self.mean, dtype) / std
    x = transformers.scale_shift(x, 1 / std, shift)
    observe(self, "input", x)
    return x

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"Normalize mean={list(self.mean)} std={list(self.std)}"


class Conv2D(nn.Module):
  """2-D convolution with bias, over [H, W, C].

  Attributes:
    filters: number of output channels.
    kernel_size: of both directions.
    stride: of both directions.
    padding: rows and columns of zeros on each side.
    kernel_init: initial weights.

  Raises:
    UsageError: when called on an image smaller than the kernel.
  """

  filters: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    height, width, channels = example_shape(x)
    size = self.kernel_size
    if min(height, width) + 2 * self.padding < size:
      raise UsageError(
          f"{self.name} has a {size}x{size} kernel and padding {self.padding},"
          f" but its input is only {height}x{width}; choose a network for"
          f" smaller images, such as ConvMed or FFNN"
      )
    kernel_shape = (size, size, channels, self.filters)
    kernel = self.param("kernel", self.kernel_init, kernel_shape)
    bias = self.param("bias", initializers.zeros, (self.filters,))
    return transformers.conv(
        x, kernel, bias, stride=self.stride, padding=self.padding
    )

  def describe(self, shape: tuple[int, ...]) -> str:
    return (
        f"Conv2D, filters={self.filters},"
        f" kernel_size={[self.kernel_size] * 2}, input_shape={list(shape)},"
        f" stride={[self.stride] * 2}, padding={self.padding}"
    )


class Linear(nn.Module):
  """Dense layer with bias, over [n].

  Attributes:
    features: number of outputs.
    kernel_init: initial weights.
  """

  features: int
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    (size,) = example_shape(x)
    kernel = self.param("kernel", self.kernel_init, (size, self.features))
    bias = self.param("bias", initializers.zeros, (self.features,))
    return transformers.dense(x, kernel, bias)

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"Linear out={self.features}"


class ConvTranspose2D(nn.Module):
  """Transposed 2-D convolution with bias, over [H, W, C].

  Attributes:
    filters: number of output channels.
    kernel_size: of both directions.
    stride: of both directions.
    padding: rows and columns that are cut off on each side.
    kernel_init: initial weights.
  """

  filters: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    shape = (self.kernel_size,) * 2 + (example_shape(x)[2], self.filters)
    kernel = self.param("kernel", self.kernel_init, shape)
    bias = self.param("bias", initializers.zeros, (self.filters,))
    return transformers.conv_transpose(
        x, kernel, bias, stride=self.stride, padding=self.padding
    )

  def describe(self, shape: tuple[int, ...]) -> str:
    return (
        f"ConvTranspose2D, filters={self.filters},"
        f" kernel_size={[self.kernel_size] * 2}, input_shape={list(shape)},"
        f" stride={[self.stride] * 2}, padding={self.padding}"
    )


class AvgPool2D(nn.Module):
  """Means over windows of [H, W, C]; padded zeros are counted.

  Attributes:
    window: height and width.
    stride: of both directions; None is `window`.
    padding: rows and columns of zeros on each side.
  """

  window: int
  stride: int | None = None
  padding: int = 0

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    return transformers.average_pool(
        x, self.window, stride=self.stride, padding=self.padding
    )

  def describe(self, shape: tuple[int, ...]) -> str:
    return "AvgPool2D"


class GlobalAvgPool2D(nn.Module):
  """The mean of each channel, over [H, W, C] -> [C]."""

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    return transformers.global_average_pool(x)

  def describe(self, shape: tuple[int, ...]) -> str:
    return "GlobalAvgPool2D"
