"""Goals made of goals (paper, Table 1)."""

import dataclasses

import jax.numpy as jnp

from diffai_jax.domains.product import Product, Value
from diffai_jax.goals.base import Context, Goal
from diffai_jax.schedules import Value as Weight
from diffai_jax.schedules import extent, value_at
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Sub(Goal):
  """`goal` on the box scaled by `scale` around its center.

  Sub(δ, g) is α^g(½(u + l - δ(u - l)), ½(u + l + δ(u - l))), with the loss of
  g. A δ above 1 trains on more than the box.
  """

  scale: Weight
  goal: Goal

  def check(self) -> None:
    low, _ = extent(self.scale)
    if low < 0:
      raise ValueError(f"the scale of Sub must not be below 0, not {low}")

  def abstract(self, lower: Array, upper: Array, context: Context) -> Value:
    width = value_at(self.scale, context.epoch) * (upper - lower)
    total = upper + lower
    return self.goal.abstract(
        (total - width) / 2, (total + width) / 2, context
    )

  def margins(self, output: Value, labels: Array, context: Context) -> Array:
    return self.goal.margins(output, labels, context)

  def loss(self, output: Value, labels: Array, context: Context) -> Array:
    return self.goal.loss(output, labels, context)

  def accuracies(
      self, output: Value, labels: Array, context: Context
  ) -> dict[str, Array]:
    return self.goal.accuracies(output, labels, context)


@dataclasses.dataclass(frozen=True)
class Mix(Goal):
  """Both goals in one run, their losses weighed against each other.

  Mix(g1, g2, λ) abstracts to α^g1 × α^g2; its loss is
  (1 - λ)·loss^g1 + λ·loss^g2.
  """

  first: Goal
  second: Goal
  weight: Weight

  def check(self) -> None:
    low, high = extent(self.weight)
    if low < 0 or high > 1:
      raise ValueError(
          f"the weight of Mix must stay within 0 and 1; it goes from {low} to"
          f" {high}"
      )

  def abstract(self, lower: Array, upper: Array, context: Context) -> Product:
    return Product((
        self.first.abstract(lower, upper, context),
        self.second.abstract(lower, upper, context),
    ))

  def margins(self, output: Product, labels: Array, context: Context) -> Array:
    """The larger of both bounds: what holds for both parts."""
    return jnp.maximum(
        self.first.margins(output[0], labels, context),
        self.second.margins(output[1], labels, context),
    )

  def loss(self, output: Product, labels: Array, context: Context) -> Array:
    weight = value_at(self.weight, context.epoch)
    first = self.first.loss(output[0], labels, context)
    second = self.second.loss(output[1], labels, context)
    mixed = (1 - weight) * first + weight * second
    # A bound that overflows must not spoil the loss it has no part in.
    return jnp.where(weight == 0, first, mixed)

  def accuracies(
      self, output: Product, labels: Array, context: Context
  ) -> dict[str, Array]:
    return self.second.accuracies(
        output[1], labels, context
    ) | self.first.accuracies(output[0], labels, context)
