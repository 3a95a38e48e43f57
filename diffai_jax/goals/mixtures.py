"""Goals that weigh several goals against each other, in one run."""

from collections.abc import Iterator
import dataclasses
import functools
import zlib

import jax
import jax.numpy as jnp

from diffai_jax import losses
from diffai_jax.domains import rounding
from diffai_jax.domains.product import Product
from diffai_jax.goals.base import Context, Goal, Weighed, walk
from diffai_jax.goals.taps import TAPS
from diffai_jax.schedules import NumberOrSchedule, extent, require_share, value_at
from diffai_jax.text.terms import argument_text
from diffai_jax.types import Array, PRNGKey


class Mixture(Weighed):
  """Base: `abstract` gives the product α^g1 × α^g2 × … of the children.

  The loss is Σ_i w_i·loss_i, with weights of the children that sum to 1. A
  subclass supplies `weights`, and `combine` where the loss is another function of
  both.
  """

  def combine(
      self, weights: Array, outputs: Product, labels: Array, context: Context
  ) -> Array:
    """The loss, [B]."""
    return _weighed(weights, self.part_losses(outputs, labels, context))

  def part_losses(
      self, outputs: Product, labels: Array, context: Context
  ) -> list[Array]:
    """The loss of each child on its part, [B] each."""
    return [
        child.loss(output, labels, context)
        for child, output in zip(self.children(), outputs.parts, strict=True)
    ]

  def part_margins(
      self, outputs: Product, labels: Array, context: Context
  ) -> list[Array]:
    """The margins of each child on its part, [B, K] each."""
    return [
        child.margins(output, labels, context)
        for child, output in zip(self.children(), outputs.parts, strict=True)
    ]

  def only(self, kept: tuple[bool, ...]) -> Goal:
    children = [c for c, keep in zip(self.children(), kept) if keep]
    return children[0] if len(children) == 1 else self

  def abstract(self, lower: Array, upper: Array, context: Context) -> Product:
    return Product(tuple(
        child.abstract(lower, upper, context.child(number))
        for number, child in enumerate(self.children())
    ))

  def margins(self, output: Product, labels: Array, context: Context) -> Array:
    """The largest of the children's bounds: what holds for all parts."""
    return functools.reduce(
        jnp.maximum, self.part_margins(output, labels, context)
    )

  def loss(self, output: Product, labels: Array, context: Context) -> Array:
    weights = self.weights(context.epoch, context.batch_key)
    return self.combine(weights, output, labels, context)

  def accuracies(
      self, output: Product, labels: Array, context: Context
  ) -> dict[str, Array]:
    """Of goals that measure the same, the first one's counts."""
    found = {}
    for child, part in zip(self.children(), output.parts, strict=True):
      found = child.accuracies(part, labels, context) | found
    return found

  def is_single(self) -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class _Pair(Mixture):
  """Base of mixtures of two goals in the shares 1 - λ and λ."""

  first: Goal
  second: Goal
  weight: NumberOrSchedule

  def check(self) -> None:
    require_share(self.weight, f"the weight of {type(self).__name__}")

  def weights(self, epoch: Array, batch_key: PRNGKey | None) -> Array:
    weight = value_at(self.weight, epoch)
    return jnp.stack([1 - weight, weight])


@dataclasses.dataclass(frozen=True)
class Mix(_Pair):
  """Both goals in one run, their losses weighed against each other.

  Mix(g1, g2, λ) abstracts to α^g1 × α^g2; its loss is
  (1 - λ)·loss^g1 + λ·loss^g2 (paper, Table 1). With an attack and Box it is
  MTL-IBP (De Palma et al. 2024, "Expressive losses for verified robustness via
  convex combinations", section 4.2).
  """


@dataclasses.dataclass(frozen=True)
class MixMargins(_Pair):
  """The cross entropy of mixed margins: CC-IBP of De Palma et al. 2024.

  MixMargins(g1, g2, λ) has the margins m = (1 - λ)·m^g1 + λ·m^g2, bounds of
  z_k - z_y, and the loss log Σ_k exp(m_k) (their section 4.1).
  """

  def check(self) -> None:
    super().check()
    for child in self.children():
      if not child.is_single():
        raise ValueError(
            f"MixMargins mixes goals on one point or element each;"
            f" {type(child).__name__} has several"
        )
      if any(isinstance(term, TAPS) for term in walk(child)):
        raise ValueError(
            "MixMargins mixes margins, and TAPS has a loss of its own; take Mix"
            " or MixLogs"
        )

  def combine(
      self, weights: Array, outputs: Product, labels: Array, context: Context
  ) -> Array:
    margins = self.part_margins(outputs, labels, context)
    return losses.cross_entropy(_weighed(weights, margins))


@dataclasses.dataclass(frozen=True)
class MixLogs(_Pair):
  """The geometric mean of two losses: Exp-IBP of De Palma et al. 2024.

  MixLogs(g1, g2, λ) has the loss (loss^g1)^(1 - λ)·(loss^g2)^λ, computed as
  exp((1 - λ)·log loss^g1 + λ·log loss^g2) (their section 4.3).
  """

  def combine(
      self, weights: Array, outputs: Product, labels: Array, context: Context
  ) -> Array:
    # A loss can round to 0, whose logarithm has no finite gradient.
    logs = [
        jnp.log(jnp.maximum(loss, rounding.tiny(loss.dtype)))
        for loss in self.part_losses(outputs, labels, context)
    ]
    return jnp.exp(_weighed(weights, logs))


def _weighed(weights: Array, values: list[Array]) -> Array:
  """Σ_i w_i·value_i, where values of weight 0 may have overflowed."""
  return sum(
      jnp.where(weight == 0, 0, weight * value)
      for weight, value in zip(weights, values, strict=True)
  )


@dataclasses.dataclass(frozen=True)
class _Listed(Mixture):
  """Base of mixtures of any number of goals: Name((g1, w1), (g2, w2), …).

  Attributes:
    pairs: (goal, weight) of each.
  """

  pairs: tuple[tuple[Goal, NumberOrSchedule], ...]

  def check(self) -> None:
    name = type(self).__name__
    if not self.pairs:
      raise ValueError(f"{name} wants pairs (goal, weight), at least one")
    bounds = [extent(weight) for _, weight in self.pairs]
    for low, _ in bounds:
      if low < 0:
        raise ValueError(f"a weight of {name} must not be below 0, not {low}")
    if sum(high for _, high in bounds) <= 0:
      raise ValueError(f"the weights of {name} are all 0")

  def children(self) -> tuple[Goal, ...]:
    return tuple(goal for goal, _ in self.pairs)

  def with_children(self, children: Iterator[Goal]) -> Goal:
    return type(self)(
        tuple((next(children), weight) for _, weight in self.pairs)
    )

  def shares(self, epoch: Array) -> Array:
    """The weights over their sum, [P]; all 0 where they are all 0."""
    weights = jnp.stack([
        value_at(weight, epoch).astype(float) for _, weight in self.pairs
    ])
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)

  def __str__(self) -> str:
    texts = [f"({g}, {argument_text(w)})" for g, w in self.pairs]
    return f"{type(self).__name__}({', '.join(texts)})"


@dataclasses.dataclass(frozen=True)
class Weighted(_Listed):
  """Σ_i w_i·loss_i / Σ_i w_i over all goals, in one run (DList of DiffAI v3).

  While all weights are 0 the loss is 0.
  """

  def weights(self, epoch: Array, batch_key: PRNGKey | None) -> Array:
    return self.shares(epoch)

  def only(self, kept: tuple[bool, ...]) -> Goal:
    pairs = tuple(pair for pair, keep in zip(self.pairs, kept) if keep)
    if not pairs:
      return self
    return pairs[0][0] if len(pairs) == 1 else Weighted(pairs)


@dataclasses.dataclass(frozen=True)
class Coin(_Listed):
  """One of the goals, drawn for each batch with probability w_i / Σ_i w_i.

  Training runs the drawn goal alone. Equal coins in one objective draw the same,
  different ones independently.
  """

  def weights(self, epoch: Array, batch_key: PRNGKey | None) -> Array:
    if batch_key is None:
      raise ValueError(f"{self} draws a goal; give its Context a batch_key")
    own = jax.random.fold_in(batch_key, zlib.crc32(str(self).encode()))
    drawn = jax.random.categorical(own, jnp.log(self.shares(epoch)))
    return (jnp.arange(len(self.pairs)) == drawn).astype(float)
