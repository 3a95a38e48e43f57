"""Networks by the paper's names."""

from collections.abc import Callable, Sequence
import math

import numpy as np

from diffai_jax.networks import abstract_layers as placement
from diffai_jax.networks import convnets, densenet, resnets
from diffai_jax.nn import Sequential
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.schedules import NumberOrSchedule
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import UsageError, shown

# Networks whose `batch_norm` is a choice.
CONVNETS: dict[str, Callable[..., Sequential]] = {
    "FFNN": convnets.ffnn,
    "ConvSmall": convnets.conv_small,
    "ConvMed": convnets.conv_med,
    "ConvBig": convnets.conv_big,
    "ConvLargeIBP": convnets.conv_large_ibp,
    "TruncatedVGG": convnets.truncated_vgg,
    "CNN7": convnets.cnn7,
}
NETWORKS: dict[str, Callable[..., Sequential]] = CONVNETS | {
    "ResNet-Tiny": resnets.resnet_tiny,
    "SkipNet-18": resnets.skipnet18,
    "ResNet-Large": resnets.resnet_large,
    "ResNet-18": resnets.resnet18,
    "ResNet-34": resnets.resnet34,
    "DenseNet-100": densenet.densenet100,
}


def canonical_name(name: str) -> str:
  """The key of NETWORKS that `name` is, whatever its case, with or without "-".

  Raises:
    UsageError: if there is no such network.
  """

  def plain(text: str) -> str:
    return text.lower().replace("-", "").replace("_", "")

  by_plain = {plain(key): key for key in NETWORKS}
  if not isinstance(name, str) or plain(name) not in by_plain:
    raise unknown_name("network", name, NETWORKS)
  return by_plain[plain(name)]


def _statistics(name: str, given: Sequence[float]) -> tuple[float, ...]:
  """Numbers, one a channel.

  Raises:
    UsageError: if they are none.
  """
  try:
    numbers = tuple(map(float, given))
  except (TypeError, ValueError, OverflowError):
    numbers = ()
  if not numbers or not all(map(math.isfinite, numbers)):
    raise UsageError(
        f"{name} is {shown(given)}; expected a number a channel, such as"
        f" (0.1307,)"
    )
  return numbers


def create(
    name: str,
    num_classes: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    *,
    abstract_layers: str = placement.NONE,
    dropout: NumberOrSchedule = 0,
    initializer: str = "interval",
    remat: bool = False,
    batch_norm: bool | None = None,
) -> Sequential:
  """The network of that name, ready for `init` and `apply`.

  Args:
    name: a key of NETWORKS; case and hyphens make no difference.
    num_classes: number of logits.
    mean, std: of the Normalize layer, a number a channel or one for all.
    abstract_layers: which of the network's sets of abstract layers it gets,
      by the paper's name, such as "FewCombo"; see `abstract_layers.SETS`.
    dropout: rate after each hidden dense layer, a number or a schedule.
    initializer: of the weights, a key of `nn.initializers.INITIALIZERS`.
    remat: whether gradients run each stage of the network once more instead of
      keeping what it computed; see `nn.Sequential`.
    batch_norm: for a key of CONVNETS, whether every layer but the last is
      normalised before its ReLU; None is as the network is known: only CNN7.

  Raises:
    UsageError: if there is no such network, set of layers or initializer, a
      number is out of range, or the network has no place for batch
      normalisation.
  """
  name = canonical_name(name)
  if (
      isinstance(num_classes, bool)
      or not isinstance(num_classes, (int, np.integer))
      or num_classes < 1
  ):
    raise UsageError(
        f"num_classes is {shown(num_classes)}; expected a whole number of at"
        f" least 1"
    )
  mean, std = _statistics("mean", mean), _statistics("std", std)
  if len(mean) != len(std) or not min(std) > 0:
    raise UsageError(
        f"mean is {shown(mean)} and std {shown(std)}; expected as many numbers"
        f" of each, one a channel, and those of std above 0"
    )
  if batch_norm and name not in CONVNETS:
    raise UsageError(
        f"batch_norm is true, but {name} has no place for it; expected one of"
        f" {', '.join(CONVNETS)}; leave it out with --config.batch_norm=false"
    )
  if initializer not in INITIALIZERS:
    raise unknown_name("initializer", initializer, INITIALIZERS)
  choices = {}
  if name in CONVNETS and batch_norm is not None:
    choices["batch_norm"] = batch_norm
  return NETWORKS[name](
      num_classes,
      mean,
      std,
      after=placement.layers_of(name, abstract_layers),
      dropout=dropout,
      kernel_init=INITIALIZERS[initializer],
      remat=remat,
      **choices,
  )
