"""Blocks of layers: chains, residual sums and dense concatenations.

They take layers as data, so that a network is a list that reads like its
listing in the paper's appendix D.
"""

from collections.abc import Sequence

from flax import linen as nn

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape
from diffai_jax.graph import after, alone
from diffai_jax.nn.checks import check_same
from diffai_jax.types import Mode, UsageError


class Flatten(nn.Module):
  """[H, W, C] -> [H·W·C]; the listings leave it out."""

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    return transformers.flatten(x)


class Sequential(nn.Module):
  """Layers one after the other; none are the identity.

  Attributes:
    layers: called as layer(x, mode).
    remat: whether a gradient runs each Sequential among the layers once more
      instead of keeping what it computed: less memory, where the compiler
      makes use of it, for a third more time (Chen et al. 2016, "Training deep
      nets with sublinear memory cost"). Only of an outermost network.

  Raises:
    UsageError: when called, if it has `remat` and is part of another module.
  """

  layers: Sequence[nn.Module]
  remat: bool = False

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    if self.remat and self.scope is not None and self.path:
      raise UsageError(
          f"{'/'.join(self.path)} has remat=True but is part of a network; give"
          f" it to the network itself"
      )
    for number, layer in enumerate(self.layers):
      if self.remat and isinstance(layer, Sequential):
        # What is followed leaves behind what led to it: a stage needs it not.
        stage = _rematerialized(self, alone(x), number, mode)
        x = after(transformers.adopt_symbols(stage), x)
      else:
        x = layer(x, mode)
    return x


def _call(chain: Sequential, x: Value, number: int, mode: Mode) -> Value:
  return chain.layers[number](x, mode)


_rematerialized = nn.remat(_call, static_argnums=(2, 3))


class Branch(Sequential):
  """One of the two branches of a Join.

  Attributes:
    label: its line in the listings, which indent what is inside.
  """

  label: str = ""


class Join(nn.Module):
  """Base: two branches run on the same input, and their results are joined.

  Attributes:
    first, second: the branches.
  """

  first: Branch
  second: Branch

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    return self.join(self.first(x, mode), self.second(x, mode))

  def join(self, first: Value, second: Value) -> Value:
    raise NotImplementedError

  def describe(self, shape: tuple[int, ...]) -> str:
    raise NotImplementedError


class ParSum(Join):
  """first(x) + second(x): a residual connection (paper, Fig. 1).

  Symbols that both branches carry meet under their names: see
  `transformers.add`.
  """

  def join(self, first: Value, second: Value) -> Value:
    check_same(self, example_shape(first), example_shape(second))
    return transformers.add(first, second)

  def describe(self, shape: tuple[int, ...]) -> str:
    return "ParSum"


class SkipCat(Join):
  """The channels of first(x), then those of second(x) (paper, Fig. 14)."""

  def join(self, first: Value, second: Value) -> Value:
    check_same(self, example_shape(first)[:-1], example_shape(second)[:-1])
    return transformers.concat([first, second], -1)

  def describe(self, shape: tuple[int, ...]) -> str:
    return "SkipCat dim=1"


def par_sum(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> ParSum:
  """The sum of two chains of layers."""
  return ParSum(
      Branch(first, label="ParNet1"), Branch(second, label="ParNet2")
  )


def skip_cat(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> SkipCat:
  """The channels of two chains of layers."""
  return SkipCat(
      Branch(first, label="SkipNet1"), Branch(second, label="SkipNet2")
  )
