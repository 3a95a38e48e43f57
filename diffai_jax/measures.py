"""What is measured of an image, and programs that do it to batches.

A measure is a function of (params, images, labels) that says something about
each image: its prediction, whether an attack breaks it, what a domain proves.
"""

from collections.abc import Callable
import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax import losses
from diffai_jax.attacks import mi_fgsm
from diffai_jax.data import Examples, to_unit_range
from diffai_jax.domains import precision
from diffai_jax.goals import REGIONS, Context, ball
from diffai_jax.types import Array, Mode, UsageError

# Beyond these a larger batch only takes more memory. No powers of two: on CPUs
# an attack on ConvSmall takes twice as long with 64, 128, 256 or 512 images.
_BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
# On CPU, larger buffers go back to the system after each batch, and faulting
# them in anew costs more than a larger batch saves (measured: 3.2 ms an image
# of HBox on ConvSmall in 28 MiB, 4.5 ms in 890 MiB).
_CPU_MEMORY_MB = 32

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


def measure_standard(network: nn.Module) -> Measure:
  """The measure of each image's `prediction`; -1 where a logit is not finite."""

  def measure(params, images, labels):
    del labels
    logits = network.apply({"params": params}, to_unit_range(images))
    prediction = jnp.argmax(logits, axis=1)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    return {"prediction": jnp.where(finite, prediction, -1).astype(jnp.int32)}

  return measure


def measure_attack(
    network: nn.Module, epsilon: float, attack: Attack
) -> Measure:
  """The measure of whether an image stays `correct` under the attack."""

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


def measure_region(network: nn.Module, domain: str, epsilon: float) -> Measure:
  """The measure of a domain's worst `margin`, and whether it is `proved`."""
  region = REGIONS[domain]

  def measure(params, images, labels):
    def forward(value, mode):
      return network.apply({"params": params}, value, mode)

    context = Context(forward, labels, epoch=jnp.zeros(()))
    lower, upper = ball(to_unit_range(images), epsilon, context.data_range)
    element = region.abstract(lower, upper, context)
    output = forward(element, Mode.CERTIFY)
    margin = region.margins(output, labels, context)
    return {
        "proved": losses.proved(margin, labels),
        "margin": losses.worst_margin(margin, labels),
    }

  return measure


def compile_measure(
    phase: str,
    measure: Measure,
    params: dict,
    image_shape: tuple[int, ...],
    memory_mb: int,
    share: int,
) -> tuple[int, Callable]:
  """Compiles a measure for the largest batch that fits.

  Args:
    phase: the measure's name, for messages.
    measure: what to compile, at the highest matmul precision.
    params: the network's weights.
    image_shape: of one example.
    memory_mb: how much memory a batch may take, in MiB a device.
    share: how many examples a device has in all.

  Returns:
    The batch's size a device, one of _BATCHES, and the program: (params, images
    uint8 [devices, size, ...], labels [devices, size]) -> arrays [devices, size]
    by name.

  Raises:
    UsageError: if one example alone needs more than memory_mb.
  """
  devices = jax.local_device_count()
  run = jax.pmap(measure, in_axes=(None, 0, 0))

  def compiled(size: int):
    shape = (devices, size)
    image = jax.ShapeDtypeStruct(shape + tuple(image_shape), jnp.uint8)
    label = jax.ShapeDtypeStruct(shape, jnp.int32)
    # Wherever it is called from, in a training step too.
    with (
        jax.default_matmul_precision("highest"), precision.for_losses(False)
    ):
      return run.lower(params, image, label).compile()

  def needed(program) -> float:
    stats = program.memory_analysis()
    return (stats.temp_size_in_bytes + stats.output_size_in_bytes) / 2**20

  budget = memory_mb
  if jax.default_backend() == "cpu":
    budget = min(memory_mb, _CPU_MEMORY_MB)
  size = min(2, share)
  program = compiled(size)
  # What does not grow with the batch is counted as if it did.
  fits = int(size * budget / max(needed(program), 1e-3))
  largest = max(1, min(fits, share))
  chosen = max(size for size in _BATCHES if size <= largest)
  if chosen != size:
    program = compiled(chosen)
  if chosen == 1 and needed(program) > memory_mb:
    raise UsageError(
        f"{phase} needs {needed(program):.0f} MiB for one example;"
        f" certify.memory_mb is {memory_mb}; raise it with"
        f" --config.certify.memory_mb, or leave the domain out with"
        f" --config.certify.domains"
    )
  return chosen, program


def run_in_batches(
    program: Callable,
    size: int,
    params: dict,
    examples: Examples,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
  """A compiled measure of all examples, [N] by name.

  Args:
    size, program: of `compile_measure`.
    params: the network's weights.
    examples: N of them.
    progress: called with how many are done.
  """
  devices = jax.local_device_count()
  shape = (devices, size)
  batch = devices * size
  pieces = []
  for start in range(0, len(examples), batch):
    # The last batch is filled up, so that every batch has one shape.
    rows = np.arange(start, start + batch).clip(max=len(examples) - 1)
    images = examples.images[rows]
    out = program(
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
