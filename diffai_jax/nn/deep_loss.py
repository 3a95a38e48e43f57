"""DeepLoss as a layer (paper, section 3.3), and what training makes of it."""

from collections.abc import Mapping
import dataclasses
import re
from typing import Callable

import jax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.domains import HybridZonotope, parts
from diffai_jax.domains.product import Value
from diffai_jax.graph import plain
from diffai_jax.nn.abstract import AbstractLayer
from diffai_jax.schedules import NumberOrSchedule, extent, value_at
from diffai_jax.text.terms import number_text
from diffai_jax.types import Array, UsageError

COLLECTION = "deep_loss"  # The collection that DeepLoss layers sow into.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeepTerm:
  """What one DeepLoss layer contributes to a loss.

  Attributes:
    value: [B].
    weight: a number or schedule of the epoch (static).
  """

  value: Array
  weight: NumberOrSchedule = dataclasses.field(metadata={"static": True})


class DeepLoss(AbstractLayer):
  """Sows the deep loss of the elements that pass; changes nothing.

  A run collects the terms with `apply(..., mutable=[COLLECTION])`, and `mix_in`
  puts them into the loss. For several elements (a Product) the value is their
  mean; arrays have none.

  Attributes:
    weight: of the term; a number or a schedule of the epoch, within [0, 1].
    activation: f of the paper; non-decreasing.
    only_train: as of AbstractLayer; usually True.

  Raises:
    UsageError: when called, if the weight leaves [0, 1].
  """

  weight: NumberOrSchedule
  activation: Callable[[Array], Array] = jax.nn.relu

  def transform(self, x: Value) -> Value:
    low, high = extent(self.weight)
    if low < 0 or high > 1:
      raise UsageError(
          f"the weight of DeepLoss is {self.weight}; it must stay within 0 and"
          f" 1 at every epoch"
      )
    values = [
        losses.deep_loss(part, self.activation)
        for part in parts(plain(x)) if isinstance(part, HybridZonotope)
    ]
    if values:
      term = DeepTerm(sum(values) / len(values), self.weight)
      self.sow(COLLECTION, "terms", term)
    return x

  def describe(self, shape: tuple[int, ...]) -> str:
    weight = self.weight
    text = number_text(weight) if isinstance(weight, (int, float)) else weight
    name = getattr(self.activation, "__name__", str(self.activation))
    return f"DeepLoss only_train={self.only_train} bw={text} act={name}"


def mix_in(
    loss: Array, collections: Mapping, epoch: Array | float
) -> Array:
  """L ← (1 - w)·L + w·value for each deep loss, in the order of the layers.

  A weight that is 0 leaves L alone, even if the value has overflowed, and one
  that is 1 leaves the value alone.

  Args:
    loss: [B].
    collections: what `apply` with `mutable=[COLLECTION]` returned.
    epoch: on the schedules' clock; may be traced.

  Returns:
    [B].
  """
  for term in _terms(collections.get(COLLECTION, {})):
    weight = value_at(term.weight, epoch)
    mixed = (1 - weight) * loss + weight * term.value
    loss = jnp.where(weight == 0, loss, mixed)
    loss = jnp.where(weight == 1, term.value, loss)
  return loss


def _terms(tree) -> list[DeepTerm]:
  """The terms in the order in which they were sown.

  Dicts keep it, but for those that a lifted transformation has sorted.
  """
  if isinstance(tree, DeepTerm):
    return [tree]
  branches = tree
  if isinstance(tree, Mapping):
    names = list(tree)
    if all(re.fullmatch(r"layers_\d+", name) for name in names):
      names.sort(key=lambda name: int(name.removeprefix("layers_")))
    branches = [tree[name] for name in names]
  return [term for branch in branches for term in _terms(branch)]
