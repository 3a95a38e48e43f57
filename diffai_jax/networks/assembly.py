"""What networks are put together from: stages, and a dense head."""

from collections.abc import Callable, Mapping, Sequence

from flax import linen as nn

from diffai_jax.nn import (
    BatchNorm,
    CorrelateAll,
    Dropout,
    Flatten,
    Linear,
    ReLU,
    Sequential,
)
from diffai_jax.schedules import NumberOrSchedule

Layers = list[nn.Module]


def assemble(
    stages: Sequence[Layers], after: Mapping[int, Layers], remat: bool
) -> Sequential:
  """All stages in their order, each followed by its abstract layers.

  Args:
    stages: the network's layers, in the groups that `remat` runs once more.
    after: abstract layers by the number of the stage that they follow.
    remat: as of `Sequential`.
  """
  # Inside of their stage: the names of weights do not depend on them.
  layers = [
      Sequential((*stage, *after.get(number, ())))
      for number, stage in enumerate(stages)
  ]
  return Sequential(tuple(layers), remat)


def dense_head(
    hidden: Sequence[int],
    num_classes: int,
    dropout: NumberOrSchedule,
    kernel_init: Callable,
    batch_norm: bool = False,
) -> Layers:
  """Hidden dense layers, each with its ReLU; CorrelateAll; the logits' layer.

  Args:
    hidden: widths of the hidden layers.
    num_classes: number of logits.
    dropout: rate after each hidden layer; 0 has no such layers.
    kernel_init: initial weights.
    batch_norm: whether hidden layers are normalised before their ReLU.
  """
  layers = [Flatten()]
  for width in hidden:
    layer = [Linear(width, kernel_init)]
    if batch_norm:
      layer.append(BatchNorm())
    layer.append(ReLU())
    if dropout != 0:
      layer.append(Dropout(dropout))
    # One for all, so that names of weights do not depend on dropout.
    layers.append(Sequential(tuple(layer)))
  return layers + [CorrelateAll(), Linear(num_classes, kernel_init)]
