"""Standard, attacked and verified accuracy of a network on images, and its files.

An example is verified by a method if the network classifies it correctly and
the method's bounds prove that every point of the region around it gets the same
class. Bounds are computed at the highest matmul precision, wherever this is called
from, and widened for rounding (see `domains.rounding`); one that is NaN proves
nothing. Weights narrower than float32 are brought to it first.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os

from flax import linen as nn
from flax import traverse_util
import numpy as np

from diffai_jax.attacks import StepwiseAttack
from diffai_jax.data import Examples
from diffai_jax.regions import Linf
from diffai_jax.storage import sealed
from diffai_jax.storage.journal import Journal
from diffai_jax.storage.older_forms import renewed
from diffai_jax.types import UsageError
from diffai_jax.verification import attack_texts
from diffai_jax.verification.attack_texts import Attack
from diffai_jax.verification.attacking import attack_all, confirmed, failed_phases
from diffai_jax.verification.certification_input import (
    certified_params,
    check_arithmetic,
    check_network,
    check_numbers,
)
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.measures import MeasureMargin, MeasurePrediction
from diffai_jax.verification.methods import (
    Box,
    BranchAndBound,
    Method,
    parse_all,
)
from diffai_jax.verification.measuring import Measuring
from diffai_jax.verification.searching import Search

# An image that it proves need not be sent to a region that costs more.
_CHEAPEST = str(Box())
JSON_FILE = "certification.json"
NPZ_FILE = "certification.npz"
NETWORK_FILE = "network.npz"
_ADVICE = "make it again with --mode=certify"


@dataclasses.dataclass(frozen=True)
class Certification:
  """What was found for each of N examples.

  Attributes:
    labels, predictions: int32, [N].
    attacked_correct: bool, [N]; correct on the image, and no attack found a point
      of the region where it is not.
    verified: bool [N] by the method's text, methods that failed left out.
    margins: [N] by method; a lower bound of min_k z_y - z_k over the region, -inf
      where none was asked for.
    asked: how many examples each method was asked about.
    seconds: time taken, by "standard", "attack" and method; compiling included.
      Of several attacks, each has its own too, such as "attack APGD(100)".
    falsified: bool, [N]; whether a point of the region is known that the network
      gets wrong.
    wrong_points: one such point of each falsified example, in their order, in
      the images' range, [M, ...]. It is in the region exactly, and was run as it
      is.
    failed: why a method or an attack gave no results, by its phase.
    subdomains: how many were bounded for each example, int32 [N], by the methods
      that search.
    image_seconds: what each example took of them, compiling left out, [N].
    broken: bool [N] by the attack's text, in the order of the attacks; for which
      of the images that stood until then it found a point.
  """

  labels: np.ndarray
  predictions: np.ndarray
  attacked_correct: np.ndarray
  verified: dict[str, np.ndarray]
  margins: dict[str, np.ndarray]
  asked: dict[str, int]
  seconds: dict[str, float]
  falsified: np.ndarray
  wrong_points: np.ndarray
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  subdomains: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  image_seconds: dict[str, np.ndarray] = dataclasses.field(
      default_factory=dict
  )
  broken: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @property
  def counterexamples(self) -> dict[int, np.ndarray]:
    """`wrong_points` by the number of the example, from 0."""
    rows = np.flatnonzero(self.falsified)
    return dict(zip(rows.tolist(), self.wrong_points))

  def summary(self) -> dict:
    """The accuracies as fractions of all examples, and the seconds.

    None is the attacked accuracy where an attack failed.
    """
    correct = self.predictions == self.labels
    attacked = float(np.mean(self.attacked_correct))
    attacks, standing = {}, int(np.sum(correct))
    for name, broken in self.broken.items():
      standing -= int(np.sum(broken))
      attacks[name] = {"broken": int(np.sum(broken)), "standing": standing}
    return {
        "examples": len(self.labels),
        "standard_accuracy": float(np.mean(correct)),
        "attacked_accuracy": None if failed_phases(self.failed) else attacked,
        "attacks": attacks,
        "verified_accuracy": {
            method: float(np.mean(verified))
            for method, verified in self.verified.items()
        },
        "asked": self.asked,
        "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
        "failed": self.failed,
    }


def certify(
    network: nn.Module,
    params: dict,
    examples: Examples,
    region: Linf,
    *,
    methods: Sequence[str | Method] = ("Box", "HBox"),
    attack: Attack | None = Attack(),
    attacks: Sequence[str | StepwiseAttack] | None = None,
    memory_mb: float | None = None,
    skip_decided: bool = False,
    progress: Callable[[str, int], None] = lambda phase, done: None,
    journal: Journal | None = None,
    status: Callable[[str, str], None] = lambda phase, text: None,
    proofs: str | None = None,
) -> Certification:
  """Measures a network on examples.

  A method or attack that fails is in `failed`; the others go on.

  Args:
    network: called as network(value, mode) -> logits.
    params: its weights. What is certified is the network that they make in
      float32, or float64 where they are, not one that computes in bfloat16
      (`certification_input.certified_params`).
    examples: what to measure on; images as `inputs.checked` takes them.
    region: around each image.
    methods: as `methods.parse` takes them.
    attack: the attack for attacked accuracy; None for none.
    attacks: several in its place, as `attack_texts.parse_all` takes them. Each is
      tried on the images that no earlier one broke.
    memory_mb: how much memory a batch may take, in MiB a device; None is half
      of what is free.
    skip_decided: whether methods but Box are asked only about what is open:
      examples that are classified correctly, that no attack broke, and that no
      method before proved. The others keep what is known: proved if a method
      before proved them, with the best margin so far.
    progress: called with the phase and how many examples are done.
    journal: where each batch's results are kept as they come. What it knows
      already is not measured again.
    status: called with the phase and a line that says how far it is, by methods
      that search.
    proofs: the folder that methods that search write their proofs to, which
      `python -m diffai_jax.check` checks. They are then asked about what others
      proved, too.

  Raises:
    UsageError: if an argument cannot be used, if this machine's arithmetic is
      not what proofs allow for, or if the network cannot even be run.
    OSError: if the journal cannot be written.
  """
  check_numbers(attack, memory_mb)
  attacks = _chosen(attack, attacks)
  methods = parse_all(methods)
  params = certified_params(params)
  inputs = checked(examples.images, examples.labels, region)
  classes = check_network(network, {"params": params}, inputs)
  check_arithmetic(network, {"params": params}, inputs)
  labels = inputs.labels
  count = len(labels)
  run = Measuring(params, inputs, memory_mb, progress, journal or Journal(), status)
  everything = np.ones(count, bool)
  as_floats = dataclasses.replace(inputs, images=inputs.points())
  found = run("standard", MeasurePrediction(network), everything, as_floats)
  if found is None:
    raise UsageError(f"the network cannot be run: {run.failed['standard']}")
  predictions = found["prediction"]
  correct = predictions == labels
  attacked = attack_all(
      run, network, classes, as_floats, region, correct, attacks, progress
  )
  # Where the prediction alone is wrong, the image itself is the point.
  resists = correct & ~np.any([~everything, *attacked.broken.values()], axis=0)
  points = attacked.points

  verified, margins, asked = {}, {}, {}
  subdomains, image_seconds, falsified = {}, {}, ~resists
  for method in methods:
    name = str(method)
    # What anything before it proved is decided.
    proved = np.any([~everything, *verified.values()], axis=0)
    margin = np.full(count, -np.inf, np.float32)
    margin = np.fmax.reduce([margin, *margins.values()])
    measure = MeasureMargin(network, method)
    if isinstance(method, BranchAndBound):
      measure = Search(network, method, memory_mb, proofs)
      which = ~falsified & ~(proved & (proofs is None))
    elif skip_decided and name != _CHEAPEST:
      which = ~falsified & ~proved
    else:
      which = everything
    asked[name] = int(np.count_nonzero(which))
    found = {}
    if asked[name]:
      found = run(name, measure, which)
    else:
      run.seconds[name] = 0.0
      progress(name, count)
    if found is None:
      continue
    proved, margin = proved.copy(), margin.copy()
    if found:
      margin = margin.astype(found["margin"].dtype)
      before = isinstance(method, BranchAndBound) & proved[which]
      proved[which] = correct[which] & found["proved"] | before
      margin[which] = np.where(
          before, np.fmax(margin[which], found["margin"]), found["margin"]
      )
    if np.any(proved & falsified):
      row = int(np.argmax(proved & falsified))
      run.failed[name] = (
          f"it claims a proof for example {row}, which an attack broke"
      )
      continue
    verified[name], margins[name] = proved, margin
    if isinstance(method, BranchAndBound):
      subdomains[name] = np.zeros(count, np.int32)
      image_seconds[name] = np.zeros(count, np.float32)
      if found:
        subdomains[name][which] = found["subdomains"]
        image_seconds[name][which] = found["seconds"]
        met = np.zeros(count, bool)
        met[which] = found["falsified"]
        met, points = confirmed(
            run, name, network, as_floats, region, points, met,
            found["counterexample"][found["falsified"]],
        )
        falsified = falsified | met
  return Certification(
      labels, predictions, resists, verified, margins, asked, run.seconds,
      falsified, points[falsified], run.failed, subdomains, image_seconds,
      attacked.broken,
  )


def _chosen(
    attack: Attack | None, attacks: Sequence[str | StepwiseAttack] | None
) -> tuple[StepwiseAttack, ...]:
  """The attacks of both arguments of `certify`; that of no steps is none."""
  if attacks is not None:
    return attack_texts.parse_all(attacks)
  return (attack.stepwise(),) if attack is not None and attack.steps else ()


def save(
    certification: Certification, folder: str, about: dict, params: dict
) -> None:
  """Writes certification.json, certification.npz and network.npz.

  Args:
    certification: what `certify` found.
    folder: where; it exists.
    about: what comes first in the JSON: network, dataset, epsilon, ...
    params: the weights that were certified.

  Raises:
    OSError: if they cannot be written.
  """
  arrays = {
      "index": np.arange(len(certification.labels)),
      "label": certification.labels,
      "prediction": certification.predictions,
      "attacked_correct": certification.attacked_correct,
      "counterexample_index": np.flatnonzero(certification.falsified),
      "counterexample_image": certification.wrong_points,
  }
  for attack, broken in certification.broken.items():
    arrays[f"broken_{attack}"] = broken
  for method, verified in certification.verified.items():
    arrays[f"verified_{method}"] = verified
    arrays[f"margin_{method}"] = certification.margins[method]
  for method, numbers in certification.subdomains.items():
    arrays[f"subdomains_{method}"] = numbers
    arrays[f"seconds_{method}"] = certification.image_seconds[method]
  weights = traverse_util.flatten_dict(certified_params(params), sep="/")
  sealed.write(folder, JSON_FILE, about | certification.summary(), {
      NPZ_FILE: arrays,
      NETWORK_FILE: {path: np.asarray(w) for path, w in weights.items()},
  })


def load_summary(folder: str) -> dict | None:
  """The content of certification.json, or None if there is none.

  Raises:
    DamagedError: if it, or a file beside it, is not what was written.
  """
  found = sealed.read(os.path.join(folder, JSON_FILE), _ADVICE)
  return found and renewed(found)


def load_arrays(folder: str) -> dict[str, np.ndarray]:
  """The arrays of certification.npz by name.

  Raises:
    UsageError: if there are none, or they are damaged.
  """
  return _arrays(folder, NPZ_FILE)


def load_network(folder: str) -> dict:
  """The weights that were certified, bit for bit.

  They are those of the network with its normalisation folded in, which is what
  `networks.folded` gives.

  Raises:
    UsageError: if there are none, or they are damaged.
  """
  weights = _arrays(folder, NETWORK_FILE)
  return traverse_util.unflatten_dict(weights, sep="/")


def _arrays(folder: str, archive: str) -> dict[str, np.ndarray]:
  summary = load_summary(folder)
  if summary is None:
    raise UsageError(f"{folder} has no {JSON_FILE}; {_ADVICE}")
  path = os.path.join(folder, JSON_FILE)
  return sealed.arrays(path, summary, archive, _ADVICE)
