"""Networks without residual connections (paper, Tables 8 and 11)."""

from collections.abc import Callable, Mapping
import functools

from diffai_jax.networks.assembly import Layers, assemble, dense_head
from diffai_jax.nn import (
    BatchNorm,
    Conv2D,
    Normalize,
    ReLU,
    Sequential,
    initializers,
)
from diffai_jax.schedules import NumberOrSchedule


def convnet(
    num_classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    convolutions: tuple[tuple[int, int, int], ...],
    padding: int,
    hidden: tuple[int, ...],
    *,
    after: Mapping[int, Layers] = {},
    dropout: NumberOrSchedule = 0,
    kernel_init: Callable = initializers.interval,
    remat: bool = False,
    batch_norm: bool = False,
) -> Sequential:
  """Normalize, convolutions, dense layers; a ReLU after each but the last.

  Args:
    num_classes: number of logits.
    mean, std: of Normalize, a number a channel.
    convolutions: (filters, kernel size, stride) of each convolution.
    padding: of every convolution.
    hidden: widths of the hidden dense layers.
    after, remat: as of `assemble`.
    dropout: rate after each hidden dense layer; 0 has no such layers.
    kernel_init: initial weights.
    batch_norm: whether every layer but the last is normalised before its ReLU.
  """
  stages = [[Normalize(mean, std)]]
  for filters, size, stride in convolutions:
    stage = [Conv2D(filters, size, stride, padding, kernel_init)]
    if batch_norm:
      stage.append(BatchNorm())
    stages.append(stage + [ReLU()])
  stages.append(
      dense_head(hidden, num_classes, dropout, kernel_init, batch_norm)
  )
  return assemble(stages, after, remat)


conv_small = functools.partial(
    convnet, convolutions=((16, 4, 2), (32, 4, 2)), padding=0, hidden=(100,)
)
conv_med = functools.partial(
    convnet, convolutions=((16, 4, 2), (32, 4, 2)), padding=1, hidden=(100,)
)
conv_big = functools.partial(
    convnet,
    convolutions=((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)),
    padding=1,
    hidden=(512, 512),
)
conv_large_ibp = functools.partial(
    convnet,
    convolutions=(
        (64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)
    ),
    padding=1,
    hidden=(200,),
)
truncated_vgg = functools.partial(
    convnet,
    convolutions=((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1)),
    padding=1,
    hidden=(512,),
)
# Not the paper's: what certified training has been compared on since Shi et al.
# 2021, "Fast certified robust training with short warmup".
cnn7 = functools.partial(
    convnet,
    convolutions=(
        (64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)
    ),
    padding=1,
    hidden=(512,),
    batch_norm=True,
)
# The paper's FFNN has five hidden layers of 100.
ffnn = functools.partial(
    convnet, convolutions=(), padding=0, hidden=(100,) * 5
)
