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
import jax.numpy as jnp
import numpy as np

from diffai_jax import files, losses
from diffai_jax.attacks import mi_fgsm
from diffai_jax.data import Examples, to_unit_range
from diffai_jax.goals import REGIONS, Context, ball
from diffai_jax.types import Array, Mode, UsageError

JSON_FILE = "certification.json"
NPZ_FILE = "certification.npz"
# Beyond this a larger batch only takes more memory.
_LARGEST_BATCH = 512
# On CPU, larger buffers go back to the system after each batch, and faulting
# them in anew costs more than a larger batch saves (measured: 3.2 ms an image
# of HBox on ConvSmall in 28 MiB, 4.5 ms in 890 MiB).
_CPU_MEMORY_MB = 32

# An image that it proves need not be sent to a region that costs more.
_CHEAPEST = "Box"

# (params, images uint8 [b, ...], labels [b]) -> arrays [b] by name.
Measure = Callable[[dict, Array, Array], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Attack:
  """MI-FGSM as the paper evaluates with (section 5).

  Attributes:
    steps: number of steps; 0 attacks nothing.
    momentum: of the normalised gradients.
    radius: how far all steps together could go, in units of ε.
  """

  steps: int = 20
  momentum: float = 0.8
  radius: float = 2.0


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
    params: its weights.
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
    found = _run(
        phase, measure, params, some, memory_mb,
        lambda done: progress(phase, left_out + done),
    )
    seconds[phase] = time.monotonic() - start
    return found

  seconds = {}
  everything = np.ones(len(examples), bool)
  predictions = run("standard", _standard(network), everything)["prediction"]
  correct = predictions == examples.labels
  resists = run("attack", _attacked(network, epsilon, attack), everything)
  resists = correct & resists["correct"]

  verified, margins, asked = {}, {}, {}
  for domain in domains:
    proved = verified.get(_CHEAPEST, ~everything)
    margin = margins.get(_CHEAPEST, np.full(len(examples), -np.inf, np.float32))
    spared = skip_decided and domain != _CHEAPEST
    which = resists & ~proved if spared else everything
    verified[domain], margins[domain] = proved.copy(), margin.copy()
    asked[domain] = int(np.count_nonzero(which))
    if asked[domain]:
      found = run(domain, _verified(network, domain, epsilon), which)
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


def _standard(network: nn.Module) -> Measure:
  def measure(params, images, labels):
    del labels
    logits = network.apply({"params": params}, to_unit_range(images))
    prediction = jnp.argmax(logits, axis=1)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    return {"prediction": jnp.where(finite, prediction, -1).astype(jnp.int32)}

  return measure


def _attacked(network: nn.Module, epsilon: float, attack: Attack) -> Measure:
  def measure(params, images, labels):
    def forward(x):
      return network.apply({"params": params}, x)

    images = to_unit_range(images)
    attacked = mi_fgsm(
        forward, images, *ball(images, epsilon), labels,
        step_size=attack.radius * epsilon / max(attack.steps, 1),
        steps=attack.steps, momentum=attack.momentum,
    )
    logits = forward(attacked)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    return {"correct": finite & (jnp.argmax(logits, axis=1) == labels)}

  return measure


def _verified(network: nn.Module, domain: str, epsilon: float) -> Measure:
  region = REGIONS[domain]

  def measure(params, images, labels):
    def forward(value, mode):
      return network.apply({"params": params}, value, mode)

    context = Context(forward, labels, epoch=jnp.zeros(()))
    lower, upper = ball(to_unit_range(images), epsilon)
    element = region.abstract(lower, upper, context)
    output = forward(element, Mode.CERTIFY)
    margin = region.margins(output, labels, context)
    return {
        "proved": losses.proved(margin, labels),
        "margin": losses.worst_margin(margin, labels),
    }

  return measure


def _run(
    phase: str,
    measure: Measure,
    params: dict,
    examples: Examples,
    memory_mb: int,
    progress: Callable[[int], None],
) -> dict[str, np.ndarray]:
  """Applies a measure to all examples, in batches over all local devices."""
  devices = jax.local_device_count()
  run = jax.pmap(measure, in_axes=(None, 0, 0))
  with jax.default_matmul_precision("highest"):
    share = -(-len(examples) // devices)
    size = _batch_size(phase, run, params, examples, memory_mb, devices, share)
    batch = size * devices
    pieces = []
    for start in range(0, len(examples), batch):
      # The last batch is filled up, so that every batch has one shape.
      rows = np.arange(start, start + batch).clip(max=len(examples) - 1)
      shape = (devices, size)
      images = examples.images[rows]
      out = run(
          params,
          images.reshape(shape + images.shape[1:]),
          examples.labels[rows].reshape(shape),
      )
      pieces.append({k: np.asarray(v).reshape(batch) for k, v in out.items()})
      progress(min(start + batch, len(examples)))
  return {
      name: np.concatenate([piece[name] for piece in pieces])[: len(examples)]
      for name in pieces[0]
  }


def _batch_size(
    phase, run, params, examples, memory_mb, devices, share
) -> int:
  """The largest batch a device, a power of two, that XLA says fits.

  Memory is asked of the compiler for two small batches, and grows linearly
  from there.
  """

  def needed(size: int) -> float:
    shape = (devices, size)
    image = jax.ShapeDtypeStruct(shape + examples.images.shape[1:], jnp.uint8)
    label = jax.ShapeDtypeStruct(shape, jnp.int32)
    stats = run.lower(params, image, label).compile().memory_analysis()
    return (stats.temp_size_in_bytes + stats.output_size_in_bytes) / 2**20

  one = needed(1)
  if one > memory_mb:
    raise UsageError(
        f"{phase} needs {one:.0f} MiB for one example; certify.memory_mb is"
        f" {memory_mb}; raise it with --config.certify.memory_mb, or leave the"
        f" domain out with --config.certify.domains"
    )
  if share == 1:
    return 1
  if jax.default_backend() == "cpu":
    memory_mb = min(memory_mb, max(_CPU_MEMORY_MB, one))
  each = max(needed(2) - one, 1e-3)
  fits = 1 + int((memory_mb - one) / each)
  largest = min(fits, _LARGEST_BATCH, share)
  return 1 << (largest.bit_length() - 1)
