"""Attacks one after the other, each on the images that the others left standing.

What an attack finds is moved to the nearest point of the region, exactly, and
counts if the network, run on what is kept, gets it wrong.
"""

from collections.abc import Callable, Sequence
import dataclasses

from flax import linen as nn
import numpy as np

from diffai_jax.attacks import Search
from diffai_jax.regions.membership import moved_inside, of_rows
from diffai_jax.verification.inputs import Inputs, Region
from diffai_jax.verification.measures import MeasureAttack, MeasurePrediction
from diffai_jax.verification.measuring import Measuring

PHASE = "attack"
CHECKED = ", checked"  # Ends the phase in which points are checked.


@dataclasses.dataclass(frozen=True)
class Attacked:
  """What attacks found of N examples.

  Attributes:
    points: where each image is, moved to a point that the network gets wrong if an
      attack found one: floats [N, ...].
    broken: which images each attack broke, bool [N] by its text.
  """

  points: np.ndarray
  broken: dict[str, np.ndarray]


def phases_of(attacks: Sequence[Search]) -> dict[str, Search]:
  """Attacks by the name of their phase: "attack" of one alone."""
  if len(attacks) == 1:
    return {PHASE: attacks[0]}
  return {f"{PHASE} {attack}": attack for attack in attacks}


def failed_phases(failed: dict[str, str]) -> list[str]:
  """Those phases of attacks that are among those that failed."""
  return [name for name in failed if name.split(" ")[0] == PHASE]


def attack_all(
    run: Measuring,
    network: nn.Module,
    classes: int,
    inputs: Inputs,
    region: Region,
    standing: np.ndarray,
    attacks: Sequence[Search],
    progress: Callable[[str, int], None],
) -> Attacked:
  """Tries attacks; one that fails has broken nothing, and is in `run.failed`.

  The seconds of all of them are in `run.seconds`, and of each, if there are several.

  Args:
    run: measures of these inputs.
    network, classes: what is attacked, and how many logits it has.
    inputs: N examples, their images as floats.
    region: as the caller gave it: its numbers are those that count.
    standing: which images the network gets right, bool [N].
    attacks: in this order.
    progress: called with the phase and how many examples are done.

  Raises:
    OSError: if the journal cannot be written.
  """
  standing, points = standing.copy(), np.array(inputs.images)
  broken, seconds = {}, {}
  for phase, attack in phases_of(attacks).items():
    name = str(attack)
    broken[name], seconds[phase] = np.zeros(len(standing), bool), 0.0

    def measured(part, measure, which, inputs=inputs):
      if not np.any(which):
        progress(part, len(which))
        return {}
      found = run(part, measure, which, inputs)
      seconds[phase] += run.seconds.pop(part)
      return found

    # The first is tried on all, as if they stood.
    asked = standing if len(broken) > 1 else np.ones_like(standing)
    found = measured(phase, MeasureAttack(network, attack, classes), asked)
    met, moved = np.zeros_like(standing), points.copy()
    if found:
      met[asked] = ~found["correct"]
      met &= standing
      moved[met] = moved_inside(
          of_rows(region, points.shape, met), found["counterexample"][met[asked]],
          points[met],
      )
    check = phase + CHECKED
    again = measured(
        check, MeasurePrediction(network), met,
        dataclasses.replace(inputs, images=moved),
    )
    if again is None:
      run.failed[phase] = run.failed.pop(check)
    elif again:
      met[met] = again["prediction"] != inputs.labels[met]
      points[met], standing[met] = moved[met], False
      broken[name] = met
  run.seconds |= {PHASE: sum(seconds.values())} | seconds
  return Attacked(points, broken)
