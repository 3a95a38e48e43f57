"""Schedules of training parameters (paper, section 4.1).

A schedule is a callable from the time, in fractional epochs, to the
parameter's value: an `optax.Schedule` of the epoch. The epoch may be a traced
scalar, so nothing recompiles as training moves on. Schedules are frozen and
hashable, and print as the text that builds them.
"""

import dataclasses

import jax.numpy as jnp
import optax

from diffai_jax.text.terms import Number, Term
from diffai_jax.types import Array


class Schedule(Term):
  """Base class: `schedule(epoch)` is the value at that epoch, a scalar."""

  def __call__(self, epoch: Array | Number) -> Array:
    raise NotImplementedError

  def extent(self) -> tuple[float, float]:
    """A lower and an upper bound of the values that the schedule takes."""
    raise NotImplementedError

  def settled(self) -> float:
    """The epoch from which the value is constant.

    Of schedules that never are, such as an exponential decay, the epoch at
    which their last piece begins.
    """
    return max(settled_at(value) for value in vars(self).values())


NumberOrSchedule = Number | Schedule


def value_at(value: NumberOrSchedule, epoch: Array | Number) -> Array:
  """The value of a number (constant) or schedule at `epoch`, a float scalar."""
  return jnp.asarray(
      value(epoch) if isinstance(value, Schedule) else float(value)
  )


def extent(value: NumberOrSchedule) -> tuple[float, float]:
  """A lower and an upper bound of the values of a number or schedule."""
  return value.extent() if isinstance(value, Schedule) else (value, value)


def settled_at(value: NumberOrSchedule) -> float:
  """The epoch from which a number or schedule is constant."""
  return float(value.settled()) if isinstance(value, Schedule) else 0.0


def require_share(value: NumberOrSchedule, name: str) -> None:
  """Raises ValueError unless a number or schedule stays within 0 and 1."""
  low, high = extent(value)
  if not (0 <= low and high <= 1):
    raise ValueError(
        f"{name} must stay within 0 and 1; it goes from {low} to {high}"
    )


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
      name = type(self).__name__
      raise ValueError(f"{name}'s numbers of epochs must not be below 0")

  def extent(self) -> tuple[float, float]:
    return min(self.start, self.end), max(self.start, self.end)

  def settled(self) -> float:
    return self.hold + self.length if self.start != self.end else 0

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
  before: NumberOrSchedule
  after: NumberOrSchedule

  def check(self) -> None:
    if self.epochs < 0:
      raise ValueError("Until's number of epochs must not be below 0")

  def extent(self) -> tuple[float, float]:
    if self.epochs == 0:
      return extent(self.after)
    lows, highs = zip(extent(self.before), extent(self.after))
    return min(lows), max(highs)

  def settled(self) -> float:
    if self.before == self.after and not isinstance(self.after, Schedule):
      return 0
    return self.epochs + settled_at(self.after)

  def __call__(self, epoch: Array | Number) -> Array:
    return jnp.asarray(
        optax.join_schedules(
            [lambda t: value_at(self.before, t),
             lambda t: value_at(self.after, t)],
            [self.epochs],
        )(epoch)
    )


@dataclasses.dataclass(frozen=True)
class Smooth(Lin):
  """`start` for `hold` epochs, then to `end` with a slow beginning.

  Over `length` epochs the share of the way is α·x⁴ for the first quarter and
  a straight line, its tangent there, for the rest (x is the share of the time):
  the ramp of ε of Xu et al. 2020 and Shi et al. 2021, which keeps interval bounds
  small while a network begins to learn. Arguments are those of `Lin`.
  """

  def __call__(self, epoch: Array | Number) -> Array:
    if self.length <= 0:
      return super().__call__(epoch)
    passed = jnp.asarray(epoch) - self.hold
    x = jnp.clip(passed / self.length, min=0, max=1)
    # α·x⁴ up to x = m, then its tangent, which must reach 1 at x = 1.
    m = 0.25
    alpha = 1 / (m**4 + 4 * m**3 * (1 - m))
    line = alpha * (m**4 + 4 * m**3 * (x - m))
    share = jnp.where(x < m, alpha * x**4, line)
    return self.start + (self.end - self.start) * share


@dataclasses.dataclass(frozen=True)
class Complement(Schedule):
  """1 - schedule, of a schedule within 0 and 1."""

  schedule: NumberOrSchedule

  def check(self) -> None:
    require_share(self.schedule, "Complement's schedule")

  def extent(self) -> tuple[float, float]:
    low, high = extent(self.schedule)
    return 1 - high, 1 - low

  def __call__(self, epoch: Array | Number) -> Array:
    return 1 - value_at(self.schedule, epoch)


@dataclasses.dataclass(frozen=True)
class Scale(Schedule):
  """c/(1 - c): the weight that has the share c beside a weight of 1."""

  schedule: NumberOrSchedule

  def check(self) -> None:
    low, high = extent(self.schedule)
    if low < 0 or high >= 1:
      raise ValueError(
          f"Scale wants values of at least 0 and below 1; they go from {low}"
          f" to {high}"
      )

  def extent(self) -> tuple[float, float]:
    low, high = extent(self.schedule)
    return low / (1 - low), high / (1 - high)

  def __call__(self, epoch: Array | Number) -> Array:
    share = value_at(self.schedule, epoch)
    return share / (1 - share)


@dataclasses.dataclass(frozen=True)
class Clip(Schedule):
  """The schedule, but at least `least` and at most `largest`."""

  schedule: NumberOrSchedule
  least: NumberOrSchedule
  largest: NumberOrSchedule

  def check(self) -> None:
    least, largest = extent(self.least)[1], extent(self.largest)[0]
    if least > largest:
      raise ValueError(
          f"Clip's least value, {least}, must not be above its largest,"
          f" {largest}"
      )

  def extent(self) -> tuple[float, float]:
    # Clipping rises with each of the three.
    ends = zip(*map(extent, (self.schedule, self.least, self.largest)))
    low, high = (min(max(end, least), most) for end, least, most in ends)
    return low, high

  def __call__(self, epoch: Array | Number) -> Array:
    value = value_at(self.schedule, epoch)
    return jnp.clip(
        value, min=value_at(self.least, epoch), max=value_at(self.largest, epoch)
    )


@dataclasses.dataclass(frozen=True)
class Staircase(Schedule):
  """The schedule's value at the last whole epoch: it moves once an epoch."""

  schedule: NumberOrSchedule

  def extent(self) -> tuple[float, float]:
    return extent(self.schedule)

  def __call__(self, epoch: Array | Number) -> Array:
    return value_at(self.schedule, jnp.floor(epoch))
