"""Standard, attacked and verified accuracy of a network on images, and its files.

An example is verified by a domain if the network classifies it correctly and
the domain's bounds prove that every point of the L∞ ball around it, within
[0, 1], gets the same class. Bounds are computed at the highest matmul
precision, wherever this is called from, and widened for rounding (see
`domains.rounding`); one that is NaN proves nothing. Weights narrower than float32
are brought to it first.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os

from flax import linen as nn
from flax import traverse_util
import jax.numpy as jnp
import numpy as np

from diffai_jax.data import Examples
from diffai_jax.storage import sealed
from diffai_jax.storage.journal import Journal
from diffai_jax.types import UsageError
from diffai_jax.verification import affine_check
from diffai_jax.verification.certification_input import (
    certified_params,
    check_examples,
    check_numbers,
    checked_domains,
)
from diffai_jax.verification.measures import (
    Attack,
    measure_attack,
    measure_region,
    measure_standard,
)
from diffai_jax.verification.measuring import Measuring

# An image that it proves need not be sent to a region that costs more.
_CHEAPEST = "Box"
JSON_FILE = "certification.json"
NPZ_FILE = "certification.npz"
NETWORK_FILE = "network.npz"
_ADVICE = "make it again with --mode=certify"


@dataclasses.dataclass(frozen=True)
class Certification:
  """What was found for each of N examples.

  Attributes:
    labels, predictions: int32, [N].
    attacked_correct: bool, [N]; correct on the image and on every point that
      the attack visited. Where the attack failed, correct on the image.
    verified: bool [N] by domain, those that failed left out.
    margins: [N] by domain; a lower bound of min_k z_y - z_k over the ball, -inf
      where none was asked for.
    asked: how many examples each domain was asked about.
    seconds: time taken, by "standard", "attack" and domain; compiling included.
    falsified: the M examples, rising, with a point of their ball that the
      network gets wrong.
    counterexamples: these points, in [0, 1], [M, ...].
    failed: why a domain or the attack gave no results, by its name.
  """

  labels: np.ndarray
  predictions: np.ndarray
  attacked_correct: np.ndarray
  verified: dict[str, np.ndarray]
  margins: dict[str, np.ndarray]
  asked: dict[str, int]
  seconds: dict[str, float]
  falsified: np.ndarray
  counterexamples: np.ndarray
  failed: dict[str, str] = dataclasses.field(default_factory=dict)

  def summary(self) -> dict:
    """The accuracies as fractions of all examples, and the seconds.

    None is the attacked accuracy where the attack failed.
    """
    correct = self.predictions == self.labels
    attacked = float(np.mean(self.attacked_correct))
    return {
        "examples": len(self.labels),
        "standard_accuracy": float(np.mean(correct)),
        "attacked_accuracy": None if "attack" in self.failed else attacked,
        "verified_accuracy": {
            domain: float(np.mean(verified))
            for domain, verified in self.verified.items()
        },
        "asked": self.asked,
        "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
        "failed": self.failed,
    }


def certify(
    network: nn.Module,
    params: dict,
    examples: Examples,
    epsilon: float,
    *,
    domains: Sequence[str] = ("Box", "HBox"),
    attack: Attack = Attack(),
    memory_mb: float | None = None,
    skip_decided: bool = False,
    progress: Callable[[str, int], None] = lambda phase, done: None,
    journal: Journal | None = None,
) -> Certification:
  """Measures a network on examples.

  A domain or attack that fails is in `failed`; the others go on.

  Args:
    network: called as network(value, mode) -> logits.
    params: its weights. What is certified is the network that they make in
      float32, or float64 where they are, not one that computes in bfloat16
      (`certification_input.certified_params`).
    examples: what to measure on.
    epsilon: radius of the L∞ ball, in pixels of [0, 1].
    domains: keys of `goals.REGIONS`.
    attack: the attack for attacked accuracy.
    memory_mb: how much memory a batch may take, in MiB a device; None is half
      of what is free.
    skip_decided: whether domains but Box are asked only about what is open:
      examples that are classified correctly, that the attack did not break, and
      that Box did not prove, if it came before. The others keep what is known:
      proved if Box proved them, with Box's margin.
    progress: called with the phase and how many examples are done.
    journal: where each batch's results are kept as they come. What it knows
      already is not measured again.

  Raises:
    UsageError: if an argument cannot be used, if this machine's arithmetic is
      not what proofs allow for, or if the network cannot even be run.
    OSError: if the journal cannot be written.
  """
  check_numbers(epsilon, attack, memory_mb)
  domains = checked_domains(domains)
  params = certified_params(params)
  check_examples(network, params, examples)
  affine_check.check(
      network, params, examples.images.shape[1:], jnp.result_type(float)
  )
  labels = examples.labels.astype(np.int32)
  count = len(labels)
  run = Measuring(
      params, Examples(examples.images, labels), memory_mb, progress,
      journal or Journal(),
  )
  everything = np.ones(count, bool)
  found = run("standard", measure_standard(network), everything)
  if found is None:
    raise UsageError(f"the network cannot be run: {run.failed['standard']}")
  predictions = found["prediction"]
  correct = predictions == labels
  found = run("attack", measure_attack(network, epsilon, attack), everything)
  resists, points = correct, examples.images / np.float32(255)
  if found is not None:
    resists = correct & found["correct"]
    # Where the prediction alone is wrong, the image itself is the point.
    attacked = ~found["correct"]
    points = points.astype(found["counterexample"].dtype)
    points[attacked] = found["counterexample"][attacked]

  verified, margins, asked = {}, {}, {}
  for domain in domains:
    proved = verified.get(_CHEAPEST, ~everything)
    margin = margins.get(_CHEAPEST, np.full(count, -np.inf, np.float32))
    spared = skip_decided and domain != _CHEAPEST
    which = resists & ~proved if spared else everything
    asked[domain] = int(np.count_nonzero(which))
    found = {}
    if asked[domain]:
      found = run(domain, measure_region(network, domain, epsilon), which)
    else:
      run.seconds[domain] = 0.0
      progress(domain, count)
    if found is None:
      continue
    proved, margin = proved.copy(), margin.copy()
    if found:
      margin = margin.astype(found["margin"].dtype)
      proved[which] = correct[which] & found["proved"]
      margin[which] = found["margin"]
    if np.any(proved & ~resists):
      row = int(np.argmax(proved & ~resists))
      run.failed[domain] = (
          f"it claims a proof for example {row}, which the attack broke"
      )
      continue
    verified[domain], margins[domain] = proved, margin
  return Certification(
      labels, predictions, resists, verified, margins, asked, run.seconds,
      np.flatnonzero(~resists), points[~resists], run.failed,
  )


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
      "counterexample_index": certification.falsified,
      "counterexample_image": certification.counterexamples,
  }
  for domain, verified in certification.verified.items():
    arrays[f"verified_{domain}"] = verified
    arrays[f"margin_{domain}"] = certification.margins[domain]
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
  return sealed.read(os.path.join(folder, JSON_FILE), _ADVICE)


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
