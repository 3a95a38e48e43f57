"""Attacks one after the other, each on the images that the others left standing.

What an attack finds is moved to the nearest point of the region, exactly, and
counts if the network, run on what is kept, gets it wrong.
"""

from collections.abc import Callable, Sequence
import dataclasses

from flax import linen as nn
import numpy as np

from diffai_jax.attacks import StepwiseAttack
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


def phases_of(attacks: Sequence[StepwiseAttack]) -> dict[str, StepwiseAttack]:
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
    attacks: Sequence[StepwiseAttack],
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
  broken, phases = {}, phases_of(attacks)
  for phase, attack in phases.items():
    # The first is tried on all, as if they stood.
    asked = standing if broken else np.ones_like(standing)
    met, found = np.zeros_like(standing), {}
    if np.any(asked):
      measure = MeasureAttack(network, attack, classes)
      found = run(phase, measure, asked, inputs)
    else:
      run.seconds[phase] = 0.0
      progress(phase, len(asked))
    if found:
      met[asked] = ~found["correct"]
      met &= standing
      met, points = confirmed(
          run, phase, network, inputs, region, points, met,
          found["counterexample"][met[asked]],
      )
    broken[str(attack)] = met
    standing &= ~met
  run.seconds[PHASE] = sum(run.seconds[phase] for phase in phases)
  return Attacked(points, broken)


def confirmed(
    run: Measuring,
    phase: str,
    network: nn.Module,
    inputs: Inputs,
    region: Region,
    points: np.ndarray,
    met: np.ndarray,
    found: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Which points that were found count: moved into the region, and run again.

  What it takes is added to the phase's seconds; if it fails, the phase has failed.

  Args:
    run, network, inputs, region: as `attack_all` takes them.
    phase: in which they were found.
    points: of all images, [N, ...].
    met: for which images one was found, bool [N].
    found: the points, [number of these, ...].

  Returns:
    Which of these images are broken, bool [N]; and all points, those of broken
    images replaced, [N, ...].
  """
  if not np.any(met):
    return met, points
  moved = points.copy()
  around = of_rows(region, points.shape, met)
  moved[met] = moved_inside(
      around, found.astype(points.dtype), inputs.images[met]
  )
  check = phase + CHECKED
  again = run(
      check, MeasurePrediction(network), met,
      dataclasses.replace(inputs, images=moved),
  )
  run.seconds[phase] += run.seconds.pop(check)
  if again is None:
    run.failed[phase] = run.failed.pop(check)
    return np.zeros_like(met), points
  broken = met.copy()
  broken[met] = again["prediction"] != inputs.labels[met]
  points = points.copy()
  points[broken] = moved[broken]
  return broken, points
