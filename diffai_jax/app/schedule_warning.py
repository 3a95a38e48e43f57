"""Schedules that are longer than a run, or that end soon after it begins.

Schemes are made for runs of 200 epochs. In a shorter one, on its own clock, the
radius may still be 0 at its end, and nothing would be proved. In a much longer
one it is there almost at once, and most epochs have the smallest learning rate.
"""

from collections.abc import Iterator
import dataclasses

from flax import linen as nn
import numpy as np

from diffai_jax.app import config_dict
from diffai_jax.app.validation import get
from diffai_jax.goals import Goal
from diffai_jax.networks import modules
from diffai_jax.objectives import ObjectiveError, parse_value
from diffai_jax.schedules import Schedule, settled_at, value_at
from diffai_jax.types import shortened

# Recipes have their last change, a ramp's end or a milestone, after more of a run
# than this; Lin(0, 1, 60) alone, in 200 epochs, after 0.3 of it.
_EARLY = 0.2
_LATER = 64  # Times at which a value is looked at after its last change.

_KEYS = (
    "dropout", "optimizer.learning_rate", "optimizer.momentum", "optimizer.l2",
    "optimizer.clip_norm", "regularizers.tightness",
    "regularizers.relu_balance",
)


def warning(
    config: config_dict.ConfigDict, goal: Goal, network: nn.Module
) -> str | None:
  """A line about schedules that do not fit a run, or None.

  Args:
    config: a checked one.
    goal: its objective.
    network: its network, whose layers may have schedules.
  """
  if not config.epochs:
    return None
  own_clock = config.schedule_epochs is None
  last = config.epochs if own_clock else config.schedule_epochs
  found = list(_schedules(config, goal, network))
  milestones = [float(m) for m in config.optimizer.milestones]
  return _longer(found, milestones, last, own_clock) or _shorter(
      found, milestones, last, own_clock
  )


def _longer(
    found: list[tuple[str, Schedule]], milestones: list[float], last: float,
    own_clock: bool,
) -> str | None:
  """The line about what has not ended at epoch `last`, the run's end."""
  late = [
      (settled_at(schedule), name, schedule) for name, schedule in found
      if settled_at(schedule) > last * (1 + 1e-9)
  ]
  milestones = [m for m in milestones if m >= last]
  if not late and not milestones:
    return None
  ends = [end for end, _, _ in late] + [m + 1 for m in milestones]
  if late:
    end, name, schedule = max(late, key=lambda found: found[0])
    now, then = (f"{float(value_at(schedule, t)):.4g}" for t in (last, end))
    told = f"{shortened(str(schedule))} of {name} is {now} when the run ends" \
           f" at epoch {last:g}, and reaches {then} at epoch {end:g}"
    rest = len(late) - 1
  else:
    told = f"optimizer.milestones has {milestones[0]:g}, but the run ends at" \
           f" epoch {last:g}"
    rest = 0
  more = f" (so do {rest} other schedules)" if rest > 1 else (
      " (so does another schedule)" if rest else ""
  )
  needed = f"{max(ends):g}"
  advice = f"--config.schedule_epochs={needed}"
  if own_clock:
    advice += f" or --config.epochs={needed}"
  return f"{told}{more}; set {advice} or more"


def _shorter(
    found: list[tuple[str, Schedule]], milestones: list[float], last: float,
    own_clock: bool,
) -> str | None:
  """The line about a run nearly all of which comes after the last change."""
  ends = [settled_at(schedule) for _, schedule in found] + milestones
  end = max(ends, default=0.0)
  if not 0 < end < _EARLY * last:
    return None
  if any(_moves(schedule, end, last) for _, schedule in found):
    return None
  advice = f"--config.schedule_epochs={end:g} spreads them over the run"
  if own_clock:
    advice += f", --config.epochs={end:g} ends it there"
  return f"all schedules and milestones have ended by epoch {end:g} of" \
         f" {last:g} on the schedules' clock, and nothing changes afterwards;" \
         f" {advice}"


def _moves(schedule: Schedule, start: float, stop: float) -> bool:
  """Whether a value still changes: `settled_at` is of its shape alone."""
  times = np.linspace(start, stop, _LATER)
  values = [float(value_at(schedule, t)) for t in times]
  return max(values) - min(values) > 1e-6 * max(map(abs, values))


def _schedules(
    config: config_dict.ConfigDict, goal: Goal, network: nn.Module
) -> Iterator[tuple[str, Schedule]]:
  """Every schedule of a run, with what it is part of."""
  for schedule in _inside(goal):
    yield "the goal", schedule
  for key in _KEYS:
    try:
      value = parse_value(get(config, key))
    except ObjectiveError:  # No text of a schedule: `validate` says so.
      continue
    if isinstance(value, Schedule):
      yield key, value
  for module in modules(network):
    for field in dataclasses.fields(module):
      value = getattr(module, field.name, None)
      if isinstance(value, Schedule) and type(module).__name__ != "Dropout":
        yield type(module).__name__, value


def _inside(value) -> Iterator[Schedule]:
  """The outermost schedules in a goal and in the goals that it is made of."""
  if isinstance(value, Schedule):
    yield value
  elif isinstance(value, tuple):
    for part in value:
      yield from _inside(part)
  elif isinstance(value, Goal):
    for field in dataclasses.fields(value):
      yield from _inside(getattr(value, field.name))
