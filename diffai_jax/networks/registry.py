"""Networks by the paper's names."""

from collections.abc import Sequence
from typing import Callable

from flax import linen as nn

from diffai_jax.networks import convnets, feedforward
from diffai_jax.nn.initializers import INITIALIZERS
from diffai_jax.schedules import Value as Rate
from diffai_jax.suggest import unknown_name

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "FFNN": feedforward.FFNN,
    "ConvSmall": convnets.conv_small,
    "ConvMed": convnets.conv_med,
}


def canonical_name(name: str) -> str:
  """The key of NETWORKS that `name` is, whatever its case.

  Raises:
    UsageError: if there is no such network.
  """
  by_lower = {key.lower(): key for key in NETWORKS}
  if name.lower() not in by_lower:
    raise unknown_name("network", name, NETWORKS)
  return by_lower[name.lower()]


def create(
    name: str,
    num_classes: int,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    *,
    dropout: Rate = 0,
    initializer: str = "interval",
) -> nn.Module:
  """The network of that name, ready for `init` and `apply`.

  Args:
    name: a key of NETWORKS; upper and lower case are the same.
    num_classes: number of logits.
    mean, std: of the Normalize layer, a number a channel or one for all.
    dropout: rate after each hidden dense layer, a number or a schedule.
    initializer: of the weights, a key of `nn.initializers.INITIALIZERS`.

  Raises:
    UsageError: if there is no such network or initializer.
  """
  make = NETWORKS[canonical_name(name)]
  if initializer not in INITIALIZERS:
    raise unknown_name("initializer", initializer, INITIALIZERS)
  return make(
      num_classes,
      tuple(map(float, mean)),
      tuple(map(float, std)),
      dropout=dropout,
      kernel_init=INITIALIZERS[initializer],
  )
