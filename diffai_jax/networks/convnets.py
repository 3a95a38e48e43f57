"""Convolutional networks without residual connections (Tables 8 and 11)."""

from typing import Callable

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.domains.product import Value
from diffai_jax.nn import Conv2D, CorrelateAll, Dropout, Linear, Normalize, ReLU
from diffai_jax.nn import initializers
from diffai_jax.schedules import Value as Rate
from diffai_jax.types import Mode


class ConvNet(nn.Module):
  """Normalize, convolutions, dense layers; a ReLU after each but the last.

  Attributes:
    num_classes: number of logits.
    mean, std: of Normalize, a number a channel.
    convolutions: (filters, kernel size, stride) of each convolution.
    padding: of every convolution.
    hidden: widths of the hidden dense layers.
    dropout: rate after each hidden dense layer; 0 has no such layers.
    kernel_init: initial weights.
  """

  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  convolutions: tuple[tuple[int, int, int], ...]
  padding: int
  hidden: tuple[int, ...]
  dropout: Rate = 0
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    """Images [B, H, W, C] (array, element, Product) -> logits [B, K]."""
    x = Normalize(self.mean, self.std)(x, mode)
    for filters, kernel_size, stride in self.convolutions:
      x = Conv2D(
          filters, kernel_size, stride, self.padding, self.kernel_init
      )(x, mode)
      x = ReLU()(x, mode)
    x = transformers.flatten(x)
    for width in self.hidden:
      x = Linear(width, self.kernel_init)(x, mode)
      x = ReLU()(x, mode)
      if self.dropout != 0:
        x = Dropout(self.dropout)(x, mode)
    x = CorrelateAll()(x, mode)
    return Linear(self.num_classes, self.kernel_init)(x, mode)


def conv_small(num_classes: int, mean, std, **options) -> ConvNet:
  """ConvSmall: 16 and 32 filters of 4×4, stride 2, no padding, 100 hidden."""
  convolutions = ((16, 4, 2), (32, 4, 2))
  return ConvNet(num_classes, mean, std, convolutions, 0, (100,), **options)


def conv_med(num_classes: int, mean, std, **options) -> ConvNet:
  """ConvMed: ConvSmall with padding 1."""
  convolutions = ((16, 4, 2), (32, 4, 2))
  return ConvNet(num_classes, mean, std, convolutions, 1, (100,), **options)
