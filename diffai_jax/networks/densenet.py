"""DenseNet-100 of the paper (section 5.1; appendix D, Figure 14)."""

from collections.abc import Callable, Mapping
import functools

from diffai_jax.networks.assembly import Layers, assemble, dense_head
from diffai_jax.nn import (
    AvgPool2D,
    Conv2D,
    Normalize,
    ReLU,
    Sequential,
    skip_cat,
)

GROWTH = 12  # Channels that each dense layer adds.
_FIRST = 2 * GROWTH
_LAYERS = 16  # In each of the three groups.
_BOTTLENECK = 4 * GROWTH


def dense_layer(conv: Callable) -> Layers:
  """x, and beside it 3×3(ReLU(1×1(ReLU(x)))): `GROWTH` more channels."""
  body = [ReLU(), conv(_BOTTLENECK, 1), ReLU(), conv(GROWTH, 3, 1, 1)]
  return [skip_cat([], body)]


def densenet100(
    num_classes: int,
    mean,
    std,
    *,
    after: Mapping[int, Layers],
    dropout,
    kernel_init: Callable,
    remat: bool,
) -> Sequential:
  """Three groups of 16 dense layers (Huang et al. 2017), 99 ReLUs deep.

  Between groups a 1×1 convolution halves the channels and a mean over 2×2 with
  padding 1 the image: 32×32 becomes 17×17 and 9×9, of which the last pool takes
  the mean of an 8×8 window, with padding 1 as well.
  """
  conv = functools.partial(Conv2D, kernel_init=kernel_init)
  channels = _FIRST
  stages = [[Normalize(mean, std)], [conv(channels, 3, 1, 1)]]
  for group in range(3):
    stages += [dense_layer(conv) for _ in range(_LAYERS)]
    channels += _LAYERS * GROWTH
    if group < 2:
      channels //= 2
      stages.append([ReLU(), conv(channels, 1), AvgPool2D(2, padding=1)])
  stages.append([ReLU(), AvgPool2D(8, padding=1)])
  stages.append(dense_head((), num_classes, dropout, kernel_init))
  return assemble(stages, after, remat)
