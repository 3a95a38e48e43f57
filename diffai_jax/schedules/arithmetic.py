"""Sums, differences, products and quotients of schedules, as text: `1 - Lin(…)`.

They print with the parentheses that they need and no others.
"""

import dataclasses
import itertools
import math
import operator
from typing import Callable, ClassVar

from diffai_jax.schedules.piecewise import (
    NumberOrSchedule,
    Schedule,
    extent,
    value_at,
)
from diffai_jax.text.terms import Number, number_text
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Arithmetic(Schedule):
  """`left` and `right`, joined by an operator; a subclass says which.

  Attributes:
    left, right: numbers or schedules; of two numbers `combine` makes a number.
  """

  left: NumberOrSchedule
  right: NumberOrSchedule

  symbol: ClassVar[str]
  binding: ClassVar[int]  # Higher ones bind tighter.
  apply: ClassVar[Callable]

  def __call__(self, epoch: Array | Number) -> Array:
    return type(self).apply(
        value_at(self.left, epoch), value_at(self.right, epoch)
    )

  def extent(self) -> tuple[float, float]:
    """From the ends: each operator is monotone in each operand."""
    ends = itertools.product(extent(self.left), extent(self.right))
    values = [type(self).apply(*pair) for pair in ends]
    return min(values), max(values)

  def __str__(self) -> str:
    left = _operand(self.left, self.binding)
    right = _operand(self.right, self.binding + 1)
    return f"{left} {self.symbol} {right}"


class Plus(Arithmetic):
  """left + right."""

  symbol, binding, apply = "+", 1, operator.add


class Minus(Arithmetic):
  """left - right."""

  symbol, binding, apply = "-", 1, operator.sub


class Times(Arithmetic):
  """left · right."""

  symbol, binding, apply = "*", 2, operator.mul


class Over(Arithmetic):
  """left / right, whose values must not include 0."""

  symbol, binding, apply = "/", 2, operator.truediv

  def check(self) -> None:
    low, high = extent(self.right)
    if low <= 0 <= high:
      raise ValueError("division by 0, or by a schedule that reaches it")


def combine(
    kind: type[Arithmetic], left: NumberOrSchedule, right: NumberOrSchedule
) -> NumberOrSchedule:
  """The operator on two values; of two numbers it is a number.

  Raises:
    ValueError: in one line, for a division by 0 or an overflow.
  """
  term = kind(left, right)
  term.check()
  if isinstance(left, Schedule) or isinstance(right, Schedule):
    return term
  try:
    value = kind.apply(left, right)
  except OverflowError:
    value = math.inf
  if not math.isfinite(value):
    raise ValueError("this number is too large")
  return value


def _operand(value: NumberOrSchedule, binding: int) -> str:
  if not isinstance(value, Schedule):
    return number_text(value)
  loose = isinstance(value, Arithmetic) and value.binding < binding
  return f"({value})" if loose else str(value)
