"""Where the paper puts abstract layers (section 5.2; appendix D).

A set says which layers follow which stage of a network, by its number; stage 0
is Normalize. All of them act in training only; every network has CorrelateAll
before its last layer besides.
"""

from collections.abc import Callable

from flax import linen as nn

from diffai_jax.nn import (
    CorrelateFixed,
    CorrelateMax,
    DecorrelateAll,
    DecorrelateMin,
    DeepLoss,
)
from diffai_jax.schedules import Lin, Until
from diffai_jax.text.suggest import unknown_name

Layers = list[nn.Module]
NONE = "None"


def few_combo() -> dict[int, Layers]:
  """For ResNet-Tiny (Figure 7)."""
  return {
      0: [CorrelateMax(32, only_train=True)],
      1: [DecorrelateMin(8, only_train=True)],
      2: [DecorrelateMin(4, only_train=True)],
      3: [DecorrelateAll(only_train=True)],
      6: [CorrelateMax(10, only_train=True)],
  }


def many_fixed() -> dict[int, Layers]:
  """For ResNet-Tiny (Figure 8)."""
  return {
      0: [CorrelateMax(32, only_train=True)],
      1: _fixed_then_min(16, 16),
      2: _fixed_then_min(8, 8),
      3: _fixed_then_min(8, 8),
      4: _fixed_then_min(4, 4),
      5: [DecorrelateAll(only_train=True)],
  }


def combo() -> dict[int, Layers]:
  """For SkipNet-18 (Figure 10)."""
  weight = Until(90, Lin(0, 0.2, 50, 40), 0)
  return {
      6: _fixed_then_min(20, 10),
      8: _fixed_then_min(10, 5) + [DeepLoss(weight, only_train=True)],
      9: _fixed_then_min(5, 2),
  }


def large_combo() -> dict[int, Layers]:
  """For ResNet-Large (Figure 11; section 5.2 has CorrelateFixed instead)."""
  first = Until(1, 0, Lin(0.5, 0, 50, 3))
  second = Until(24, Lin(0, 0.1, 20, 4), Lin(0.1, 0, 50))
  return {
      1: [CorrelateMax(4, only_train=True)],
      2: _max_then_min(4, 4),
      3: _max_then_min(4, 4),
      4: [DeepLoss(first, only_train=True)],
      5: _max_then_min(4, 4),
      6: _max_then_min(4, 2),
      7: [DeepLoss(second, only_train=True)],
  }


def _fixed_then_min(k: int, kept: int) -> Layers:
  return [
      CorrelateFixed(k, only_train=True), DecorrelateMin(kept, only_train=True)
  ]


def _max_then_min(k: int, kept: int) -> Layers:
  return [
      CorrelateMax(k, only_train=True), DecorrelateMin(kept, only_train=True)
  ]


# What each network was trained with, by the paper's names.
SETS: dict[str, dict[str, Callable[[], dict[int, Layers]]]] = {
    "ResNet-Tiny": {"FewCombo": few_combo, "ManyFixed": many_fixed},
    "SkipNet-18": {"Combo": combo},
    "ResNet-Large": {"LargeCombo": large_combo},
}


def layers_of(network: str, name: str) -> dict[int, Layers]:
  """The abstract layers of that name, by the stage that they follow.

  Args:
    network: a key of `registry.NETWORKS`.
    name: "None", or a key of SETS[network]; upper and lower case and
      underscores make no difference.

  Raises:
    UsageError: if the network has no set of that name.
  """
  known = SETS.get(network, {})
  for key, make in known.items():
    if key.lower() == name.lower().replace("_", ""):
      return make()
  if name.lower() in (NONE.lower(), ""):
    return {}
  raise unknown_name(f"abstract_layers of {network}", name, [NONE, *known])
