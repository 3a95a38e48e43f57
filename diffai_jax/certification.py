"""Standard, attacked and verified accuracy of a network on images.

An example is verified by a domain if the network classifies it correctly and
the domain's bounds prove that every point of the L∞ ball around it, within
[0, 1], gets the same class. Bounds are computed at the highest matmul
precision and widened for rounding (see `domains.rounding`); one that is NaN
proves nothing.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import time

from flax import linen as nn
import jax
import numpy as np

from diffai_jax import files
from diffai_jax.data import Examples
from diffai_jax.domains import precision
from diffai_jax.measures import (
    Attack,
    Measure,
    compile_measure,
    measure_attack,
    measure_region,
    measure_standard,
    run_in_batches,
)

JSON_FILE = "certification.json"
NPZ_FILE = "certification.npz"
# An image that it proves need not be sent to a region that costs more.
_CHEAPEST = "Box"


@dataclasses.dataclass(frozen=True)
class Certification:
  """What was found for each of N examples.

  Attributes:
    labels, predictions: int32, [N].
    attacked_correct: bool, [N]; correct on the image and on every point that
      the attack visited.
    verified: bool [N] by domain.
    margins: [N] by domain; a lower bound of min_k z_y - z_k over the ball, -inf
      where none was asked for.
    asked: how many examples each domain was asked about.
    seconds: time taken, by "standard", "attack" and domain; compiling included.
  """

  labels: np.ndarray
  predictions: np.ndarray
  attacked_correct: np.ndarray
  verified: dict[str, np.ndarray]
  margins: dict[str, np.ndarray]
  asked: dict[str, int]
  seconds: dict[str, float]

  def summary(self) -> dict:
    """The accuracies as fractions of all examples, and the seconds."""
    correct = self.predictions == self.labels
    return {
        "examples": len(self.labels),
        "standard_accuracy": float(np.mean(correct)),
        "attacked_accuracy": float(np.mean(self.attacked_correct)),
        "verified_accuracy": {
            domain: float(np.mean(verified))
            for domain, verified in self.verified.items()
        },
        "asked": self.asked,
        "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
    }


def certify(
    network: nn.Module,
    params: dict,
    examples: Examples,
    epsilon: float,
    *,
    domains: Sequence[str] = ("Box", "HBox"),
    attack: Attack = Attack(),
    memory_mb: int = 1024,
    skip_decided: bool = False,
    progress: Callable[[str, int], None] = lambda phase, done: None,
) -> Certification:
  """Measures a network on examples.

  Args:
    network: called as network(value, mode) -> logits.
    params: its weights. What is certified is the network that they make in
      float32, or float64 where they are, not one that computes in bfloat16.
    examples: what to measure on.
    epsilon: radius of the L∞ ball, in pixels of [0, 1].
    domains: keys of `goals.REGIONS`.
    attack: the attack for attacked accuracy.
    memory_mb: how much memory a batch may take, in MiB a device.
    skip_decided: whether domains but Box are asked only about what is open:
      examples that are classified correctly, that the attack did not break, and
      that Box did not prove, if it came before. The others keep what is known:
      proved if Box proved them, with Box's margin.
    progress: called with the phase and how many examples are done.

  Raises:
    UsageError: if one example alone needs more than memory_mb.
  """

  def run(phase: str, measure: Measure, which: np.ndarray) -> dict:
    """The measure of the examples `which`, [N] bool; keeps the time."""
    start = time.monotonic()
    left_out = len(examples) - np.count_nonzero(which)
    some = Examples(examples.images[which], examples.labels[which])
    share = -(-len(some) // jax.local_device_count())
    size, program = compile_measure(
        phase, measure, params, some.images.shape[1:], memory_mb, share
    )
    found = run_in_batches(
        program, size, params, some,
        lambda done: progress(phase, left_out + done),
    )
    seconds[phase] = time.monotonic() - start
    return found

  params = precision.at_least_float32(params)
  seconds = {}
  everything = np.ones(len(examples), bool)
  found = run("standard", measure_standard(network), everything)
  predictions = found["prediction"]
  correct = predictions == examples.labels
  found = run("attack", measure_attack(network, epsilon, attack), everything)
  resists = correct & found["correct"]

  verified, margins, asked = {}, {}, {}
  for domain in domains:
    proved = verified.get(_CHEAPEST, ~everything)
    margin = margins.get(_CHEAPEST, np.full(len(examples), -np.inf, np.float32))
    spared = skip_decided and domain != _CHEAPEST
    which = resists & ~proved if spared else everything
    verified[domain], margins[domain] = proved.copy(), margin.copy()
    asked[domain] = int(np.count_nonzero(which))
    if asked[domain]:
      found = run(domain, measure_region(network, domain, epsilon), which)
      verified[domain][which] = correct[which] & found["proved"]
      margins[domain][which] = found["margin"]
    else:
      seconds[domain] = 0.0
      progress(domain, len(examples))
  return Certification(
      examples.labels, predictions, resists, verified, margins, asked, seconds
  )


def save(certification: Certification, workdir: str, about: dict) -> None:
  """Writes certification.json and certification.npz into a work folder.

  Args:
    certification: what `certify` found.
    workdir: the work folder.
    about: what comes first in the JSON: network, dataset, epsilon.
  """
  arrays = {
      "index": np.arange(len(certification.labels)),
      "label": certification.labels,
      "prediction": certification.predictions,
      "attacked_correct": certification.attacked_correct,
  }
  for domain, verified in certification.verified.items():
    arrays[f"verified_{domain}"] = verified
    arrays[f"margin_{domain}"] = certification.margins[domain]
  with files.replacing(os.path.join(workdir, NPZ_FILE), binary=True) as file:
    np.savez_compressed(file, **arrays)
  files.write_json(
      os.path.join(workdir, JSON_FILE), about | certification.summary()
  )


def load_summary(workdir: str) -> dict | None:
  """The content of certification.json, or None if there is none.

  Raises:
    UsageError: if it cannot be read.
  """
  return files.read_json(
      os.path.join(workdir, JSON_FILE), "make it again with --mode=certify"
  )
