r"""Every network with its config: sizes, one training step, soundness.

  python -m benchmarks.networks --data_dir=FOLDER --json=FILE

Each config runs in a process of its own, on CIFAR-10, with its own objective at
the middle of its ramp. The script compiles the step, takes --steps of them, and
checks that --points random points, corners and ends of gradient steps of the ε
ball around a test image stay inside of the bounds of Box. "Finite" are these
steps' losses and gradients, and those of --sweep steps from new weights through
the whole ramp, whose end meets weights that nothing has prepared for it.

"paper" are the seconds an epoch that its Table 6 has for the same network and
objective, on one GPU; "ours" are seconds a step times steps an epoch. Memory is
the most that the process held until the --steps were done. --batch takes fewer
images than the config asks for; the table has the batch that was used.
"""

import dataclasses
import json
import math
import resource
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables
from diffai_jax import domains
from diffai_jax.app.job import Job
from diffai_jax.data import batches, load, to_unit_range
from diffai_jax.goals import ball
from diffai_jax.kernels import xla
from diffai_jax.networks import certified, describe
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step
from diffai_jax.types import Mode

_DATA_DIR = flags.DEFINE_string("data_dir", "", "prepared TFDS datasets")
_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "configs; all by default")
_BATCH = flags.DEFINE_integer("batch", None, "images a step, at most")
_STEPS = flags.DEFINE_integer("steps", 20, "of training")
_SWEEP = flags.DEFINE_integer("sweep", 8, "steps through the ramp")
_POINTS = flags.DEFINE_integer("points", 1000, "of the ball")

_ONE = flags.DEFINE_string("one", None, "the config to measure in this process")

# By config: the epoch at the middle of its ramp, and the seconds an epoch that
# the paper's Table 6 has for it on a GPU.
CONFIGS = {
    "ffnn.py:cifar10": (30, None),
    "convsmall.py:cifar10": (30, None),
    "convmed.py:cifar10": (30, None),
    "convbig.py": (40, None),
    "convlarge_ibp.py": (40, None),
    "truncated_vgg.py": (40, None),
    "cnn7.py": (40, None),
    "resnet_tiny.py": (85, 161),
    "resnet_tiny.py:few_combo": (85, 220),
    "resnet_tiny.py:many_fixed": (85, 347),
    "skipnet18.py": (140, 260),
    "skipnet18.py:combo": (140, 342),
    "resnet_large.py": (105, 527),
    "resnet18.py": (140, 233),
    "resnet34.py": (140, 176),
    "densenet100.py": (125, 727),
}
_EPOCH_IMAGES = 50_000
_SWEEP_BEGIN = 1_000_000  # The step from which on the clock sweeps.


def measure(text: str) -> dict:
  """What the docstring says, for one config."""
  config, middle = tables.load_config(text), CONFIGS[text][0]
  config.data_dir = _DATA_DIR.value
  if _BATCH.value:
    config.batch_size = min(config.batch_size, _BATCH.value)
  job = Job.from_config(config)
  shape, size = job.dataset.image_shape, config.batch_size
  description = describe(job.network, shape)
  data = load(config.dataset, "train", config.data_dir)

  def epoch_of(step):
    swept = (step - _SWEEP_BEGIN) / max(1, _SWEEP.value - 1)
    return jnp.where(
        step < _SWEEP_BEGIN,
        middle + step * size / _EPOCH_IMAGES,
        2 * middle * swept,
    )

  optimizer = optimizers.create(config.optimizer, epoch_of)
  take_step = make_step(
      job.network, job.goal, optimizer, job.dataset, config.epsilon,
      config.seed, epoch_of, job.regularizers, config.accumulate,
  )
  stream = batches(data, size, config.seed, 0)

  def take(first: int, count: int):
    """The state after `count` steps from new weights, and what was seen."""
    state = create_state(job.network, optimizer, shape, config.seed)
    state = dataclasses.replace(state, step=jnp.int32(first))
    losses, norms, seconds = [], [], []
    for _ in range(count):
      images, labels = next(stream)
      start = time.perf_counter()
      state, metrics = take_step(state, images[None], labels[None])
      jax.block_until_ready((state, metrics))
      seconds.append(time.perf_counter() - start)
      losses.append(float(metrics["loss"]))
      norms.append(float(metrics["gradient_norm"]))
    return state, losses, norms, seconds

  state, losses, norms, seconds = take(0, 1 + _STEPS.value)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  _, swept_losses, swept_norms, _ = take(_SWEEP_BEGIN, _SWEEP.value)
  few = max(1, _STEPS.value // 4)
  escaped = count_escapes(job, state)
  return {
      "config": text, "goal": str(job.goal), "batch": size,
      "relus": description.relus, "parameters": description.parameters,
      "depth": description.depth,
      "first_losses": float(np.mean(losses[:few])),
      "last_losses": float(np.mean(losses[-few:])),
      "losses": losses, "gradient_norms": norms,
      "swept_losses": swept_losses, "swept_gradient_norms": swept_norms,
      "finite": bool(np.all(np.isfinite(
          losses + norms + swept_losses + swept_norms
      ))),
      "compile_seconds": seconds[0] - min(seconds[1:]),
      "step_seconds": min(seconds[1:]),
      "median_step_seconds": float(np.median(seconds[1:])),
      "peak_gib": peak, "points": _POINTS.value, "escaped": escaped,
  }


def count_escapes(job: Job, state) -> int:
  """How many points of the ball around a test image leave the bounds of Box."""
  network, params = certified(
      job.network, state.variables, job.dataset.image_shape
  )
  test = load(job.config.dataset, "test", job.config.data_dir)
  image = to_unit_range(jnp.asarray(test.images[:1]))
  low, high = ball(image, job.config.epsilon)

  @jax.jit
  def run(params, points):
    return network.apply({"params": params}, points)

  @jax.jit
  def bounds(params):
    with jax.default_matmul_precision("highest"):
      box = domains.from_bounds(low, high)
      out = network.apply({"params": params}, box, Mode.CERTIFY)
    return domains.lower(out), domains.upper(out)

  @jax.jit
  def towards(params, points, weights):
    """Corners to which the gradient of a random sum of logits points."""
    slope = jax.grad(lambda p: jnp.sum(run(params, p) * weights))(points)
    return jnp.where(slope > 0, high, low)

  lower, upper = bounds(params)
  random = np.random.default_rng(0)
  batch, escaped = 20, 0
  for start in range(0, _POINTS.value, batch):
    share = random.uniform(size=(batch, *image.shape[1:]))
    if start // batch % 3 == 1:
      share = np.round(share)
    points = jnp.clip(low + (high - low) * jnp.asarray(share, low.dtype),
                      low, high)
    if start // batch % 3 == 2:
      weights = random.normal(size=(batch, job.dataset.num_classes))
      points = towards(params, points, jnp.asarray(weights, low.dtype))
    logits = run(params, points)
    inside = jnp.all((lower <= logits) & (logits <= upper), axis=1)
    escaped += int(np.sum(~np.asarray(inside)))
  return escaped


HEADER = (
    "config", "ReLUs", "parameters", "depth", "batch",
    "loss, first and last steps", "finite", "step, s", "compile, s",
    "memory, GiB", "escaped", "epoch, s", "paper's, s",
)


def cells(row: dict) -> list:
  """A row of the table."""
  epoch = row["step_seconds"] * math.ceil(_EPOCH_IMAGES / row["batch"])
  return [
      row["config"], f"{row['relus']:,}", f"{row['parameters']:,}",
      row["depth"], row["batch"],
      f"{row['first_losses']:.3f}, {row['last_losses']:.3f}",
      "yes" if row["finite"] else "no", f"{row['step_seconds']:.3f}",
      f"{row['compile_seconds']:.1f}", f"{row['peak_gib']:.1f}",
      f"{row['escaped']} of {row['points']}", f"{epoch:,.0f}",
      CONFIGS[row["config"]][1],
  ]


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    print(json.dumps(measure(_ONE.value)))
    return
  tables.check_names(_ONLY.value, CONFIGS)
  print(tables.table(HEADER, []), flush=True)
  rows = []
  for text in _ONLY.value or CONFIGS:
    rows.append(tables.run_apart("benchmarks.networks", text))
    print(tables.line(cells(rows[-1])), flush=True)
    tables.write_json(_JSON.value, rows)


if __name__ == "__main__":
  app.run(main)
