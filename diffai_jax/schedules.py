"""Schedules of training parameters (paper, section 4.1).

A schedule is a callable from the time, in fractional epochs, to the
parameter's value: an `optax.Schedule` of the epoch. The epoch may be a traced
scalar, so nothing recompiles as training moves on. Schedules are frozen and
hashable, and print as the text that builds them.
"""

import dataclasses

import jax.numpy as jnp
import optax

from diffai_jax.terms import Number, Term
from diffai_jax.types import Array


class Schedule(Term):
  """Base class: `schedule(epoch)` is the value at that epoch, a scalar."""

  def __call__(self, epoch: Array | Number) -> Array:
    raise NotImplementedError

  def extent(self) -> tuple[float, float]:
    """A lower and an upper bound of the values that the schedule takes."""
    raise NotImplementedError


Value = Number | Schedule


def value_at(value: Value, epoch: Array | Number) -> Array:
  """The value of a number (constant) or schedule at `epoch`, a scalar."""
  return jnp.asarray(value(epoch) if isinstance(value, Schedule) else value)


def extent(value: Value) -> tuple[float, float]:
  """A lower and an upper bound of the values of a number or schedule."""
  return value.extent() if isinstance(value, Schedule) else (value, value)


@dataclasses.dataclass(frozen=True)
class Lin(Schedule):
  """Holds `start` for `hold` epochs, then goes linearly to `end`.

  `Lin(a, b, m, n)` is a until epoch n, a + (b - a)(t - n)/m until epoch n + m,
  and b from then on. The paper's text has m and n the other way round; every
  scheme of its Table 2 means this one. With `length` 0 it jumps at `hold`.
  """

  start: Number
  end: Number
  length: Number
  hold: Number = 0

  def check(self) -> None:
    if self.length < 0 or self.hold < 0:
      raise ValueError("Lin's numbers of epochs must not be below 0")

  def extent(self) -> tuple[float, float]:
    return min(self.start, self.end), max(self.start, self.end)

  def __call__(self, epoch: Array | Number) -> Array:
    if self.length <= 0:
      return jnp.where(
          jnp.asarray(epoch) < self.hold, float(self.start), float(self.end)
      )
    ramp = optax.linear_schedule(
        float(self.start), float(self.end), self.length, self.hold
    )
    return jnp.asarray(ramp(epoch))


@dataclasses.dataclass(frozen=True)
class Until(Schedule):
  """`before` until epoch `epochs`; then `after`, whose clock starts there.

  `Until(m, s1, s2)` is s1(t) for t < m and s2(t - m) from then on.
  """

  epochs: Number
  before: Value
  after: Value

  def check(self) -> None:
    if self.epochs < 0:
      raise ValueError("Until's number of epochs must not be below 0")

  def extent(self) -> tuple[float, float]:
    if self.epochs == 0:
      return extent(self.after)
    lows, highs = zip(extent(self.before), extent(self.after))
    return min(lows), max(highs)

  def __call__(self, epoch: Array | Number) -> Array:
    return jnp.asarray(
        optax.join_schedules(
            [lambda t: value_at(self.before, t),
             lambda t: value_at(self.after, t)],
            [self.epochs],
        )(epoch)
    )
