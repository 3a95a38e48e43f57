"""Optax's own schedules in an objective's text: `cosine(1, 200)`.

A name is optax's without "_schedule"; arguments are optax's, in their order or
by name, with numbers of epochs where optax counts steps.
"""

import dataclasses
import inspect
from typing import Callable

import jax.numpy as jnp
import optax

from diffai_jax.schedules.piecewise import Schedule
from diffai_jax.text.terms import Number, number_text
from diffai_jax.types import Array, reason


def _between(*names: str) -> Callable[[dict], tuple[float, float]]:
  """The schedule goes between the values of these arguments."""

  def extent(given: dict) -> tuple[float, float]:
    values = [given[name] for name in names]
    return min(values), max(values)

  return extent


def _cosine(given: dict) -> tuple[float, float]:
  _require_positive(given, "exponent")
  ends = given["init_value"], given["alpha"] * given["init_value"]
  return min(ends), max(ends)


def _polynomial(given: dict) -> tuple[float, float]:
  _require_positive(given, "power")
  return _between("init_value", "end_value")(given)


def _warmup_cosine(given: dict) -> tuple[float, float]:
  _require_positive(given, "exponent")
  return _between("init_value", "peak_value", "end_value")(given)


def _exponential(given: dict) -> tuple[float, float]:
  start, rate, end = (
      given["init_value"], given["decay_rate"], given["end_value"]
  )
  if not (0 < rate <= 1 or (rate > 1 and start > 0 and end is not None)):
    raise ValueError(
        "a decay_rate must be above 0, and above 1 only with an end_value and"
        " an init_value above 0"
    )
  ends = [start, 0 if rate <= 1 else end]
  ends += [] if end is None else [end]
  return min(ends), max(ends)


def _require_positive(given: dict, name: str) -> None:
  if given[name] <= 0:
    raise ValueError(f"its {name} must be above 0, not {given[name]}")


def _warmup_exponential(given: dict) -> tuple[float, float]:
  decay = given | {"init_value": given["peak_value"]}
  low, high = _exponential(decay)
  return min(low, given["init_value"]), max(high, given["init_value"])


def _onecycle(given: dict) -> tuple[float, float]:
  peak, epochs = given["peak_value"], given["transition_steps"]
  shares = [given[name] for name in ("pct_start", "pct_final") if name in given]
  turns = [int(share * epochs) for share in (*shares, 1)]
  if turns != sorted(set(turns)):
    # Optax rounds its turning points down to whole steps.
    raise ValueError(
        f"its turning points must be different whole epochs that rise; over"
        f" {epochs:g} epochs they are {turns}"
    )
  start = peak / given["div_factor"]
  # The last value is the start or the peak, divided by final_div_factor.
  ends = [peak, start, start / given["final_div_factor"],
          peak / given["final_div_factor"]]
  return min(ends), max(ends)


# Optax's factory, and the lowest and highest value for given arguments.
OPTAX: dict[str, tuple[Callable, Callable[[dict], tuple[float, float]]]] = {
    "constant": (optax.constant_schedule, _between("value")),
    "cosine": (optax.cosine_decay_schedule, _cosine),
    "cosine_onecycle": (optax.cosine_onecycle_schedule, _onecycle),
    "exponential": (optax.exponential_decay, _exponential),
    "linear": (optax.linear_schedule, _between("init_value", "end_value")),
    "linear_onecycle": (optax.linear_onecycle_schedule, _onecycle),
    "polynomial": (optax.polynomial_schedule, _polynomial),
    "warmup_constant": (
        optax.warmup_constant_schedule, _between("init_value", "peak_value")
    ),
    "warmup_cosine": (optax.warmup_cosine_decay_schedule, _warmup_cosine),
    "warmup_exponential": (
        optax.warmup_exponential_decay_schedule, _warmup_exponential
    ),
}


@dataclasses.dataclass(frozen=True)
class OptaxSchedule(Schedule):
  """One of optax's schedules, of the epoch.

  Attributes:
    name: a key of OPTAX.
    arguments: (name, number) of those that are given, in optax's order.
  """

  name: str
  arguments: tuple[tuple[str, Number], ...]

  @classmethod
  def build(
      cls, name: str, positional: list[Number], named: dict[str, Number]
  ) -> "OptaxSchedule":
    """From the arguments of a call.

    Raises:
      ValueError: in one line, if optax takes other arguments.
    """
    signature = inspect.signature(OPTAX[name][0])
    try:
      bound = signature.bind(*positional, **named)
    except TypeError as error:
      names = ", ".join(signature.parameters)
      raise ValueError(f"{name}({names}): {error}") from None
    schedule = cls(name, tuple(bound.arguments.items()))
    schedule.check()
    return schedule

  def check(self) -> None:
    try:
      OPTAX[self.name][0](**dict(self.arguments))
      self.extent()
    except Exception as error:  # Whatever optax finds wrong with the numbers.
      raise ValueError(f"{self.name}: {reason(error)}") from None

  def extent(self) -> tuple[float, float]:
    factory, bounds = OPTAX[self.name]
    parameters = inspect.signature(factory).parameters.values()
    given = {p.name: p.default for p in parameters}
    return bounds(given | dict(self.arguments))

  def settled(self) -> float:
    given = dict(self.arguments)
    if "decay_steps" in given:  # Of cosines, a warmup included.
      return given["decay_steps"]
    if self.name.endswith("exponential"):  # Never settles.
      return given.get("warmup_steps", 0) + given.get("transition_begin", 0)
    steps = ("warmup_steps", "transition_steps", "transition_begin")
    return sum(given.get(name, 0) for name in steps)

  def __call__(self, epoch: Array | Number) -> Array:
    schedule = OPTAX[self.name][0](**dict(self.arguments))
    return jnp.asarray(schedule(jnp.asarray(epoch)))

  def __str__(self) -> str:
    words = [f"{name}={number_text(value)}" for name, value in self.arguments]
    return f"{self.name}({', '.join(words)})"
