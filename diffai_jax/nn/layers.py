"""Affine layers. On arrays they compute, on elements they bound.

Every layer is called as `layer(x, mode)`, whatever x is, and `describe` gives
its line in the listings of the paper's appendix D.
"""

from typing import Callable

from flax import linen as nn
import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape, value_dtype
from diffai_jax.nn import initializers
from diffai_jax.nn.checks import check_input, check_positive, param
from diffai_jax.nn.naming import place
from diffai_jax.nn.observation import observe
from diffai_jax.types import Mode, UsageError, shown


class Normalize(nn.Module):
  """(x - mean) / std a channel, fixed, so that ε is in pixel space.

  Attributes:
    mean, std: a number a channel of the last axis, or one for all.

  Raises:
    UsageError: when called on anything but floats, or on another number of
      channels, or if a number cannot be divided by.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    check_input(self, x)
    channels = (example_shape(x) or (1,))[-1]
    for name in ("mean", "std"):
      given = np.asarray(getattr(self, name), float)
      if given.shape not in ((), (1,), (channels,)):
        raise UsageError(
            f"{place(self)} has {given.size} numbers for {name}, but the images"
            f" have {channels} channels; expected a number a channel or one for"
            f" all"
        )
      if not np.isfinite(given).all() or (name == "std" and (given <= 0).any()):
        wanted = "numbers above 0" if name == "std" else "numbers"
        raise UsageError(
            f"{place(self)} has {name} {shown(given.tolist())}; expected"
            f" {wanted}"
        )
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
    UsageError: when called on an image smaller than the kernel, or on anything
      but images.
  """

  filters: int
  kernel_size: int
  stride: int = 1
  padding: int = 0
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    check_input(self, x, "[H, W, C]")
    check_positive(self, "filters", "kernel_size", "stride")
    height, width, channels = example_shape(x)
    size = self.kernel_size
    if min(height, width) + 2 * self.padding < size:
      raise UsageError(
          f"{self.name} has a {size}x{size} kernel and padding {self.padding},"
          f" but its input is only {height}x{width}; choose a network for"
          f" smaller images, such as ConvMed or FFNN"
      )
    kernel_shape = (size, size, channels, self.filters)
    kernel = param(self, "kernel", self.kernel_init, kernel_shape)
    bias = param(self, "bias", initializers.zeros, (self.filters,))
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
    check_input(self, x, "[n]")
    check_positive(self, "features")
    (size,) = example_shape(x)
    kernel = param(self, "kernel", self.kernel_init, (size, self.features))
    bias = param(self, "bias", initializers.zeros, (self.features,))
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
    check_input(self, x, "[H, W, C]")
    check_positive(self, "filters", "kernel_size", "stride")
    shape = (self.kernel_size,) * 2 + (example_shape(x)[2], self.filters)
    kernel = param(self, "kernel", self.kernel_init, shape)
    bias = param(self, "bias", initializers.zeros, (self.filters,))
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
    check_input(self, x, "[H, W, C]")
    check_positive(self, "window")
    return transformers.average_pool(
        x, self.window, stride=self.stride, padding=self.padding
    )

  def describe(self, shape: tuple[int, ...]) -> str:
    return "AvgPool2D"


class GlobalAvgPool2D(nn.Module):
  """The mean of each channel, over [H, W, C] -> [C]."""

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    check_input(self, x, "[H, W, C]")
    return transformers.global_average_pool(x)

  def describe(self, shape: tuple[int, ...]) -> str:
    return "GlobalAvgPool2D"
