"""Feed-forward networks (paper, Tables 8 and 11)."""

from typing import Callable

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.domains.product import Value
from diffai_jax.nn import CorrelateAll, Dropout, Linear, Normalize, ReLU
from diffai_jax.nn import initializers
from diffai_jax.schedules import Value as Rate
from diffai_jax.types import Mode


class FFNN(nn.Module):
  """Normalize, then dense layers with a ReLU after each but the last.

  Attributes:
    num_classes: number of logits.
    mean, std: of Normalize, a number a channel.
    hidden: widths of the hidden layers. The paper's FFNN has five of 100.
    dropout: rate after each hidden layer; 0 has no such layers.
    kernel_init: initial weights.
  """

  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  hidden: tuple[int, ...] = (100,) * 5
  dropout: Rate = 0
  kernel_init: Callable = initializers.interval

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    """Images [B, H, W, C] (array, element, Product) -> logits [B, K]."""
    x = Normalize(self.mean, self.std)(x, mode)
    x = transformers.flatten(x)
    for width in self.hidden:
      x = Linear(width, self.kernel_init)(x, mode)
      x = ReLU()(x, mode)
      if self.dropout != 0:
        x = Dropout(self.dropout)(x, mode)
    x = CorrelateAll()(x, mode)
    return Linear(self.num_classes, self.kernel_init)(x, mode)
