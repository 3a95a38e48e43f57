"""The parts of `benchmarks.gpu_check`, each for a process of its own.

A part returns what JSON can hold. On CPUs, where there is only to see that they
work, they take smaller sizes.
"""

import dataclasses
import functools
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import diffai_jax as dj
from benchmarks import tables, timing
from diffai_jax.kernels import platforms, xla
from diffai_jax.verification import measures, programs
from diffai_jax.verification.certification_input import check_arithmetic
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.methods import parse

PRECISIONS = ("float32", "tf32", "bfloat16")
# By JAX's names, for products of float32 numbers in a training step.
_JAX_PRECISION = {
    "float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default",
}
# Configs, at their own batch.
STEPS = {
    "ResNet-18": "resnet18.py:cifar10,8/255", "CNN7": "cnn7.py:cifar10,8/255",
}
_ON_CPU = "convsmall.py:mnist,0.1"  # Stands for each of them there.
_BATCH_ON_CPU = 16
_STEP_GOAL, _STEP_COLUMN = "Mix(Point, Box, 0.5)", "b"
# Configs to certify, and whether CPUs do it as well.
CERTIFIED = {
    "ConvSmall": ("convsmall.py:mnist,0.1", True),
    "ConvMed": ("convmed.py:cifar10,8/255", False),
    "ResNet-Tiny": ("resnet_tiny.py:cifar10,8/255", False),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How much is done: on an accelerator, or on CPUs.

  Attributes:
    networks, points: random ones of the search, and points of each and type.
    small: whether these networks have few layers.
    seconds: of timing for each program.
    epochs: of the short training.
  """

  networks: int
  points: int
  small: bool
  seconds: float
  epochs: int


ACCELERATOR = Sizes(20, 20_000, False, 10.0, 20)
CPU = Sizes(1, 500, True, 1.0, 4)


def on_cpu() -> bool:
  return platforms.platform_name() == "cpu"


def _sizes() -> Sizes:
  return CPU if on_cpu() else ACCELERATOR


def machine() -> dict:
  """The device as JAX sees it, and the parts: None, or why one is left out."""
  device = jax.devices()[0]
  stats = device.memory_stats() or {}
  return {
      "platform": platforms.platform_name(),
      "kind": device.device_kind,
      "devices": jax.device_count(),
      "platform_version": " ".join(device.client.platform_version.split()),
      "memory_mib": stats.get("bytes_limit", 0) // 2**20 or None,
      "parts": {name: _left_out(name) for name in PARTS},
  }


def _left_out(name: str) -> str | None:
  """Why there is no such part here."""
  kind, *words = name.split("/")
  if kind == "torch" and timing.torch is None:
    return "PyTorch is not installed"
  if kind == "step" and words[1] == "tf32" and on_cpu():
    return "no tf32 on cpu"
  if kind == "torch" and words[1] == "tf32" and not _cuda():
    return "no tf32 on cpu"
  if kind == "certification" and on_cpu() and not CERTIFIED[words[0]][1]:
    return "not measured on CPUs"
  if on_cpu() and kind in ("step", "torch") and words[0] != next(iter(STEPS)):
    return "on CPUs one network stands for all"
  return None


def _cuda() -> bool:
  return timing.torch.cuda.is_available()


def soundness() -> dict:
  """Random networks and points in their bounds; and the machine's arithmetic.

  Raises:
    RuntimeError: if a point left its bounds.
  """
  # The search belongs to the tests.
  sys.path.insert(
      0, os.path.join(os.path.dirname(__file__), os.pardir, "tests")
  )
  import soundness_search  # pylint: disable=g-import-not-at-top

  for config, everywhere in CERTIFIED.values():
    if everywhere or not on_cpu():
      job = timing.load_job(config, "Point", 1)
      inputs = checked(*timing.random_batch(job), dj.Linf(job.config.epsilon))
      network, params = _untrained(job)
      check_arithmetic(network, {"params": params}, inputs)
  sizes, found = _sizes(), {}
  jax.config.update("jax_enable_x64", True)
  for dtype in (np.float32, np.float64):
    name = np.dtype(dtype).name
    try:
      jax.block_until_ready(jnp.ones(2, dtype) @ jnp.ones(2, dtype))
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
      found[name] = {"not available": str(error).splitlines()[0]}
      continue
    total = soundness_search.Found()
    for seed in range(sizes.networks):
      total += soundness_search.search(seed, dtype, sizes.points, sizes.small)
    found[name] = {
        "networks": sizes.networks, "points": total.points,
        "bounds": total.bounds, "finite": total.finite,
        "escapes": total.escapes, "seeds": total.seeds,
    }
  escapes = {n: f["escapes"] for n, f in found.items() if f.get("escapes")}
  if escapes:
    raise RuntimeError(f"points left their bounds: {found}")
  return found


def step(name: str, precision: str) -> dict:
  """Our training step on a point and a box, in one precision."""
  jax.config.update("jax_default_matmul_precision", _JAX_PRECISION[precision])
  xla.set_flags()
  job = _step_job(name, precision)
  ours = timing.CompiledStep(job)
  times = timing.interleaved({"ours": ours}, seconds=_sizes().seconds)["ours"]
  if not ours.is_finite():
    raise RuntimeError("the loss or its gradient is not finite")
  batch = job.config.batch_size
  return timing.milliseconds(times) | {
      "network": job.config.network, "batch": batch,
      "examples_per_second": batch / min(times), "compile_seconds": ours.compile_seconds, "mib": ours.mib,
  }


def torch_step(name: str, precision: str) -> dict:
  """PyTorch's of the same; it has the device alone, JAX's arrays are the host's.

  Its loss and gradients are compared with ours first, on the CPU.
  """
  from benchmarks import torch_steps  # pylint: disable=g-import-not-at-top

  device = "cuda" if _cuda() else "cpu"
  small = device == "cpu"
  job = _step_job(name, precision, small)
  params = _untrained(job)[1]
  found = {"device": device, "version": timing.torch.__version__}
  if precision == "float32" and not small:
    found["difference"] = torch_steps.check(job, params, _STEP_COLUMN)
  form, found["form"] = torch_steps.fastest_step(
      job, params, _STEP_COLUMN, device, precision
  )
  times = timing.interleaved(
      {"torch": form}, seconds=(CPU if small else ACCELERATOR).seconds
  )["torch"]
  if device == "cuda":
    found["mib"] = timing.torch.cuda.max_memory_allocated() / 2**20
    found["device"] = timing.torch.cuda.get_device_name()
  batch = job.config.batch_size
  return found | timing.milliseconds(times) | {
      "network": job.config.network, "batch": batch,
      "examples_per_second": batch / min(times)
  }


def certification(name: str) -> dict:
  """Milliseconds an image of predictions, Box and HBox, in `certify`'s batches."""
  config, _ = CERTIFIED[name]
  xla.set_flags()
  job = timing.load_job(config, "Point", _BATCH_ON_CPU if on_cpu() else 512)
  network, params = _untrained(job)
  inputs = checked(*timing.random_batch(job), dj.Linf(job.config.epsilon))
  rows = {}
  for what in ("standard", "Box", "HBox"):
    measure = (
        measures.MeasurePrediction(network) if what == "standard"
        else measures.MeasureMargin(network, parse(what))
    )
    start = time.perf_counter()
    size, program = programs.compile_measure(
        what, measure, params, inputs, None
    )
    seconds = time.perf_counter() - start
    devices = jax.local_device_count()
    batch = jax.tree.map(
        lambda leaf: np.stack([leaf[:size]] * devices), inputs
    )
    run = lambda: jax.block_until_ready(program(params, batch))
    times = timing.interleaved({what: run}, seconds=_sizes().seconds)[what]
    each = [one / (size * devices) for one in times]
    rows[what] = timing.milliseconds(each) | {
        "batch": size * devices, "compile_seconds": seconds, "mib": program.mib
    }
  return rows


def training() -> dict:
  """A short training of ConvMed's kind, and certification of its end.

  Raises:
    RuntimeError: if it learnt nothing, or a proof and an attack disagree.
  """
  images, labels, data = _digits()
  held_out = slice(-200, None)
  nn, epochs = dj.nn, _sizes().epochs
  width = 20 if on_cpu() else 200
  network = nn.Sequential([
      nn.Conv2D(width // 4, 4, 2, 1), nn.ReLU(), nn.Flatten(),
      nn.Linear(width), nn.ReLU(), nn.Linear(10),
  ])
  start = time.perf_counter()
  run = dj.train(
      network, (images[:-200], labels[:-200]), epsilon=0.03, epochs=epochs,
      goal=f"Mix(Point, Sub(Lin(0, 1, {epochs // 2}), Box), 0.3)",
      batch_size=64 * jax.local_device_count(), learning_rate=2e-3,
      progress=False,
  )
  seconds = time.perf_counter() - start
  methods = ("Box", "HBox")
  found = dj.certify(
      run, images[held_out], labels[held_out], dj.Linf(0.03), methods=methods
  )
  summary = found.summary()
  for method in methods:
    wrong = np.asarray(found.verified[method]) & ~np.asarray(
        found.attacked_correct
    )
    if wrong.any():
      raise RuntimeError(f"{method} proved what an attack refutes: {wrong.sum()}")
  if summary["standard_accuracy"] < 0.5:
    raise RuntimeError(f"accuracy {summary['standard_accuracy']} after training")
  return {
      "data": data, "epochs": epochs, "seconds": seconds,
      "examples_per_second": run.metrics[-1]["examples_per_second"],
      "loss": run.metrics[-1]["loss"],
      "standard_accuracy": summary["standard_accuracy"],
      "attacked_accuracy": summary["attacked_accuracy"],
      "verified_accuracy": dict(summary["verified_accuracy"]),
      "certification_seconds": sum(summary["seconds"].values()),
  }


def _digits() -> tuple[np.ndarray, np.ndarray, str]:
  """scikit-learn's digits, or blurred random patterns without it."""
  try:
    from sklearn import datasets  # pylint: disable=g-import-not-at-top
  except ImportError:
    rng = np.random.default_rng(0)
    patterns = rng.random((10, 8, 8, 1))
    labels = rng.integers(0, 10, 1800)
    images = 0.7 * patterns[labels] + 0.3 * rng.random((1800, 8, 8, 1))
    return images.astype(np.float32), labels, "random patterns"
  images, labels = datasets.load_digits(return_X_y=True)
  images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
  return images, labels, "digits"


def _step_job(name: str, precision: str, small: bool | None = None):
  """The network without batch normalisation, which PyTorch's has not."""
  config, batch = _ON_CPU, _BATCH_ON_CPU
  if not (on_cpu() if small is None else small):
    config = STEPS[name]
    batch = tables.load_config(config).batch_size
  return timing.load_job(
      config, _STEP_GOAL, batch, bfloat16=precision == "bfloat16",
      batch_norm=False,
  )


def _untrained(job) -> tuple:
  """The network and weights before training."""
  shape = job.dataset.image_shape
  variables = jax.jit(job.network.init)(
      jax.random.key(0), jnp.zeros((1, *shape))
  )
  return job.network, variables["params"]


PARTS = {
    "soundness": soundness,
    **{
        f"step/{name}/{precision}": functools.partial(step, name, precision)
        for name in STEPS for precision in PRECISIONS
    },
    **{
        f"torch/{name}/{precision}": functools.partial(
            torch_step, name, precision
        )
        for name in STEPS for precision in PRECISIONS
    },
    **{
        f"certification/{name}": functools.partial(certification, name)
        for name in CERTIFIED
    },
    "training": training,
}
