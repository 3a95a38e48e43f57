"""The paper's residual networks (section 5.1; appendix D, Figures 6 to 13)."""

from collections.abc import Callable, Mapping
import functools

from diffai_jax.networks.assembly import Layers, assemble, dense_head
from diffai_jax.nn import (
    Conv2D,
    Normalize,
    ReLU,
    Sequential,
    initializers,
    par_sum,
)


def wide_block(filters: int, blocks: int, kernel_init: Callable) -> Layers:
  """ReLU(1×1(x) + 3×3(ReLU(3×3(x)))), as of Wong et al. 2018 (Figure 1)."""
  skip = [Conv2D(filters, 1, kernel_init=kernel_init)]
  return [par_sum(skip, _body(filters, 1, blocks, kernel_init)), ReLU()]


def basic_block(
    filters: int, stride: int, blocks: int, kernel_init: Callable
) -> Layers:
  """ReLU(3×3(ReLU(3×3(x))) + x); a stride makes the skip a 1×1 convolution.

  As of He et al. 2016, without normalisation (Figure 12).
  """
  skip = []
  if stride > 1:
    skip = [Conv2D(filters, 1, stride, kernel_init=kernel_init)]
  return [par_sum(_body(filters, stride, blocks, kernel_init), skip), ReLU()]


def _body(filters: int, stride: int, blocks: int, kernel_init) -> Layers:
  """3×3(ReLU(3×3(x))), in a network of that many blocks."""
  last = initializers.residual(kernel_init, blocks)
  return [
      Conv2D(filters, 3, stride, 1, kernel_init),
      ReLU(),
      Conv2D(filters, 3, 1, 1, last),
  ]


def wide_resnet(
    num_classes: int,
    mean,
    std,
    *,
    widths: tuple[int, ...],
    hidden: int,
    after: Mapping[int, Layers],
    dropout,
    kernel_init: Callable,
    remat: bool,
) -> Sequential:
  """A convolution of 16 filters, wide blocks of `widths`, a dense layer."""
  stages = [
      [Normalize(mean, std)],
      [Conv2D(16, 3, 1, 1, kernel_init), ReLU()],
      *(wide_block(filters, len(widths), kernel_init) for filters in widths),
      dense_head((hidden,), num_classes, dropout, kernel_init),
  ]
  return assemble(stages, after, remat)


# ResNet-Tiny is 12 ReLU layers deep (Figure 6), ResNet-Large 16 (Figure 11).
resnet_tiny = functools.partial(
    wide_resnet, widths=(16, 32, 32, 32, 32), hidden=500
)
resnet_large = functools.partial(
    wide_resnet, widths=(16, 32, 32, 32, 64, 64, 64), hidden=1000
)


def resnet(
    num_classes: int,
    mean,
    std,
    *,
    blocks: tuple[int, ...],
    after: Mapping[int, Layers],
    dropout,
    kernel_init: Callable,
    remat: bool,
) -> Sequential:
  """A convolution, groups of basic blocks of 64, 128, … filters, two dense.

  Attributes:
    blocks: how many blocks each group has; all groups but the first begin with
      stride 2.
  """
  stages = [
      [Normalize(mean, std)], [Conv2D(64, 3, 1, 1, kernel_init), ReLU()]
  ]
  for group, count in enumerate(blocks):
    for block in range(count):
      stride = 2 if group > 0 and block == 0 else 1
      stages.append(
          basic_block(64 * 2**group, stride, sum(blocks), kernel_init)
      )
  stages.append(dense_head((512, 512), num_classes, dropout, kernel_init))
  return assemble(stages, after, remat)


resnet18 = functools.partial(resnet, blocks=(2, 2, 2, 2))  # Figure 12.
resnet34 = functools.partial(resnet, blocks=(3, 4, 6, 3))  # Figure 13.


def skipnet18(
    num_classes: int,
    mean,
    std,
    *,
    after: Mapping[int, Layers],
    dropout,
    kernel_init: Callable,
    remat: bool,
) -> Sequential:
  """ResNet-18 with skips only where the stride is 2 (Figure 9)."""

  def plain(filters: int) -> Layers:
    return [Conv2D(filters, 3, 1, 1, kernel_init), ReLU()]

  stages = [[Normalize(mean, std)], *(plain(64) for _ in range(5))]
  for filters in (128, 256, 512):
    stages.append(basic_block(filters, 2, 3, kernel_init))
    stages += [plain(filters), plain(filters)]
  stages.append(dense_head((512, 512), num_classes, dropout, kernel_init))
  return assemble(stages, after, remat)
