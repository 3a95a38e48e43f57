r"""Certification: time and memory an image of each measure, and of 10,000 images.

  python -m benchmarks.certification --json=FILE
  python -m benchmarks.certification --only="CIFAR ResNet-Tiny"

Programs are those of `certify`, for the batches that it chooses within
--memory_mb; times are of compiled programs, least and median, all measures of a
network in turn, an image's share of its batch. Nothing is left out for being
decided already: bounds cost the same whatever they prove. So weights are those
before training, and images are random.

"MiB" is what the compiler gives a batch beside its arguments. "GFLOP/s" of the
machine's float32 matrix product are measured in turn with the rest. "v3" is
DiffAI v3 on a machine of this kind, measured at another time.

The last table has whole passes over 10,000 images, host and all: predictions
and Box, as `--config.certify.methods='("Box",)'` has them.
"""

import json
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables, timing
from diffai_jax.attacks import MIFGSM
from diffai_jax.data import Examples
from diffai_jax.kernels import xla
from diffai_jax.regions import Linf
from diffai_jax.verification import (
    blocks,
    measures,
    program_cache,
    programs,
)
from diffai_jax.verification.certification import certify
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.methods import parse

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "networks; all by default")
_MEMORY = flags.DEFINE_integer("memory_mb", 2048, "of a batch, at most")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "of timing for each network")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed runs of each, at least")
_ONE = flags.DEFINE_string("one", None, "network to measure in this process")

# Config, and milliseconds an image of DiffAI v3 where they are known.
NETWORKS = {
    "MNIST ConvSmall": ("convsmall.py:mnist,0.1", {
        "standard": None, "MI-FGSM": 1.06, "Box": 0.08, "HBox": 21.6,
        "HSwitch": 29, "ZSwitch": 110,
    }),
    "MNIST ConvMed": ("convmed.py:mnist,0.1", {
        "standard": None, "MI-FGSM": None, "Box": None, "HBox": None,
    }),
    "CIFAR ConvMed": ("convmed.py:cifar10,8/255", {
        "standard": None, "MI-FGSM": None, "Box": None, "HBox": 241,
    }),
    "CIFAR ResNet-Tiny": ("resnet_tiny.py", {"Box": 7.5, "HBox": 14_800}),
}
_WHOLE = ("MNIST ConvSmall", "MNIST ConvMed", "CIFAR ConvMed")
_IMAGES = 10_000


class Program:
  """A measure, compiled for the batch that `certify` would choose.

  Attributes:
    size: images of the batch.
    compile_seconds: until it can run; several sizes are tried.
    mib: temporaries and results.
  """

  def __init__(self, name: str, measure, params, images, labels, epsilon):
    program_cache.forget()
    start = time.perf_counter()
    inputs = checked(images, labels, Linf(epsilon))
    self.size, self._program = programs.compile_measure(
        name, measure, params, inputs, _MEMORY.value
    )
    self.compile_seconds = time.perf_counter() - start
    self.mib = self._program.mib
    self._batch = params, jax.tree.map(
        lambda leaf: leaf[None], inputs[: self.size]
    )

  def __call__(self) -> None:
    jax.block_until_ready(self._program(*self._batch))


def measure(name: str) -> dict:
  """What the docstring says, for one network."""
  config, known = NETWORKS[name]
  job = timing.load_job(config, "Point", 512)
  images, labels = timing.random_batch(job)
  params = jax.jit(job.network.init)(
      jax.random.key(0), jnp.zeros((1, *job.dataset.image_shape))
  )["params"]
  epsilon = job.config.epsilon
  made = {
      "standard": lambda: measures.MeasurePrediction(job.network),
      "MI-FGSM": lambda: measures.MeasureAttack(
          job.network, MIFGSM(), job.dataset.num_classes
      ),
  }
  programs = {}
  for what in known:
    make = made.get(
        what, lambda: measures.MeasureMargin(job.network, parse(what))
    )
    programs[what] = Program(what, make(), params, images, labels, epsilon)
  times = timing.interleaved(
      programs | timing.matrix_products(), rounds=_ROUNDS.value,
      seconds=_SECONDS.value,
  )
  rows = []
  for what, program in programs.items():
    each = [seconds / program.size for seconds in times[what]]
    rows.append({
        "network": name, "measure": what, "batch": program.size,
        "mib": program.mib, "compile_seconds": program.compile_seconds,
        "v3_ms": known[what], **timing.milliseconds(each),
    })
  return {"rows": rows, "rates": timing.matrix_product_rate(times),
          "whole": whole(job, params) if name in _WHOLE else None}


def whole(job, params) -> dict:
  """Seconds for 10,000 images, with compiling and the second time without."""
  rng = np.random.default_rng(0)
  shape = (_IMAGES, *job.dataset.image_shape)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  labels = rng.integers(0, 10, _IMAGES, dtype=np.int32)
  found = {}
  for measure_name, make in (
      ("standard", measures.MeasurePrediction(job.network)),
      ("Box", measures.MeasureMargin(job.network, parse("Box"))),
  ):
    inputs = checked(images, labels, Linf(job.config.epsilon))
    size, program = programs.compile_measure(
        measure_name, make, params, inputs, 1024
    )
    run = lambda: blocks.run_in_batches(program, size, params, inputs)
    run()
    found[measure_name] = min(_seconds(run) for _ in range(_ROUNDS.value))
  program_cache.forget()
  start = time.perf_counter()
  certify(
      job.network, params, Examples(images, labels), Linf(job.config.epsilon),
      methods=("Box",), attack=None,
  )
  return found | {"with compiling": time.perf_counter() - start}


def _seconds(function) -> float:
  start = time.perf_counter()
  function()
  return time.perf_counter() - start


HEADER = (
    "network", "measure", "batch", "ms an image", "median", "MiB", "compile, s",
    "v3, ms", "v3/ours",
)


def cells(row: dict) -> list:
  """A row of the table."""
  v3 = row["v3_ms"]
  return [
      row["network"], row["measure"], row["batch"], f"{row['ms']:.3f}",
      f"{row['median_ms']:.3f}", f"{row['mib']:,.0f}",
      f"{row['compile_seconds']:.1f}", v3 and f"{v3:,}",
      v3 and f"{v3 / row['ms']:.1f}",
  ]


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    print(json.dumps(measure(_ONE.value)))
    return
  tables.check_names(_ONLY.value, NETWORKS)
  results = {}
  print(tables.table(HEADER, []), flush=True)
  for name in _ONLY.value or NETWORKS:
    results[name] = tables.run_apart("benchmarks.certification", name)
    for row in results[name]["rows"]:
      print(tables.line(cells(row)), flush=True)
    tables.write_json(_JSON.value, results)
  print("\n" + tables.table(
      ("10,000 images", "predictions, s", "Box, s", "both, compiling too, s"),
      [
          [name] + [f"{seconds:.3f}" for seconds in found["whole"].values()]
          for name, found in results.items() if found["whole"]
      ],
  ))
  for name, found in results.items():
    print(f"\n{name}: {timing.rate_text(found['rates'])}")


if __name__ == "__main__":
  app.run(main)
