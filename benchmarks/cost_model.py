r"""A model of time and memory, for each network on any number of devices.

  python -m benchmarks.cost_model
  python -m benchmarks.cost_model --devices=1,8,64 --tflops=40 --gb_per_second=200
  python -m benchmarks.cost_model --check

`diffai_jax.training.scaling` says what it assumes; --tflops is what a device
reaches in training, --gb_per_second what leaves it.

--check compiles steps for 1, 2 and 4 devices that this machine's CPU stands for,
and prints what a device holds by the compiler's account beside the model's. The
devices share the machine's cores, so their times say nothing about many.
"""

import dataclasses
import json
import os
import subprocess
import sys

from absl import app, flags, logging
import jax
import jax.numpy as jnp

from benchmarks import tables
from diffai_jax.app.job import Job
from diffai_jax.kernels import xla
from diffai_jax.training.scaling import Model
from diffai_jax.training.state import create_state

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "networks; all by default")
_DEVICES = flags.DEFINE_list("devices", ["1", "8"], "numbers of devices")
_TFLOPS = flags.DEFINE_float("tflops", 10.0, "that training reaches, a device")
_LINK = flags.DEFINE_float("gb_per_second", 50.0, "that leave a device at once")
_CHECK = flags.DEFINE_bool("check", False, "compare memory with the compiler's")
_ONE = flags.DEFINE_string("one", None, "network to compile a step of, here")

ENTRIES = {
    "MNIST FFNN": "ffnn.py",
    "MNIST ConvSmall": "convsmall.py:mnist",
    "MNIST ConvMed": "convmed.py:mnist",
    "CIFAR FFNN": "ffnn.py:cifar10",
    "CIFAR ConvSmall": "convsmall.py:cifar10",
    "CIFAR ConvMed": "convmed.py:cifar10",
    "CIFAR ConvBig": "convbig.py",
    "CIFAR ConvLargeIBP": "convlarge_ibp.py",
    "CIFAR TruncatedVGG": "truncated_vgg.py",
    "CIFAR ResNet-Tiny": "resnet_tiny.py",
    "CIFAR ResNet-Large": "resnet_large.py",
    "CIFAR SkipNet-18": "skipnet18.py",
    "CIFAR ResNet-18": "resnet18.py",
    "CIFAR ResNet-34": "resnet34.py",
    "CIFAR DenseNet-100": "densenet100.py",
    "CIFAR CNN7": "cnn7.py",
}
_CHECKED = ("MNIST ConvSmall", "CIFAR ConvMed", "CIFAR ConvBig")
_CHECKED_DEVICES = (1, 2, 4)


def compiled_bytes(name: str) -> float:
  """What a device holds by the compiler's account, on this process's devices."""
  devices = jax.local_device_count()
  config = tables.load_config(ENTRIES[name])
  config.goal = "Mix(Point, Box, 0.5)"
  job = Job.from_config(config)
  shape = (devices, config.batch_size // devices)
  state = create_state(
      job.network, job.optimizer(1), job.dataset.image_shape, 0
  )
  compiled = job.make_step(job.goal, 1).lower(
      state, jnp.zeros(shape + job.dataset.image_shape, jnp.uint8),
      jnp.zeros(shape, jnp.int32),
  ).compile()
  stats = compiled.memory_analysis()
  return stats.argument_size_in_bytes + stats.temp_size_in_bytes


def _model_of(name: str) -> Model:
  job = Job.from_config(tables.load_config(ENTRIES[name]))
  return Model.of(
      job.network, job.dataset.image_shape, job.config.batch_size
  )


def _compiled_on(name: str, devices: int) -> float:
  """`compiled_bytes`, in a process that has so many devices."""
  forced = f"--xla_force_host_platform_device_count={devices}"
  flags_given = f"{os.environ.get('XLA_FLAGS', '')} {forced}"
  done = subprocess.run(
      [sys.executable, "-m", "benchmarks.cost_model", f"--one={name}"],
      env=os.environ | {"XLA_FLAGS": flags_given, "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE, text=True, check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def check(names) -> list[dict]:
  """Prints and returns the compiler's memory beside the model's."""
  header = ("network", "batch", "devices", "compiled, MiB", "model", "ratio")
  print(tables.table(header, []), flush=True)
  rows = []
  for name in names:
    sizes = _model_of(name)
    for devices in _CHECKED_DEVICES:
      found, expected = _compiled_on(name, devices), sizes.bytes_on(devices)
      rows.append({
          "network": name, "devices": devices, "compiled_bytes": found,
          "model_bytes": expected,
      })
      print(tables.line([
          name, sizes.batch, devices, f"{found / 2**20:.1f}",
          f"{expected / 2**20:.1f}", f"{found / expected:.2f}",
      ]), flush=True)
  return rows


def model(names) -> list[dict]:
  """Prints and returns what the model says."""
  devices = [int(text) for text in _DEVICES.value]
  flops, link = _TFLOPS.value * 1e12, _LINK.value * 1e9
  header = [
      "network", "parameters", "ReLUs", "multiply-adds", "batch",
      "GFLOP a step",
      *(f"step on {d}, ms" for d in devices),
      *(f"MiB on {d}" for d in devices),
      "Box, MFLOP an image", "HBox at most, GFLOP",
  ]
  print(tables.table(header, []), flush=True)
  rows = []
  for name in names:
    sizes = _model_of(name)
    seconds = [sizes.step_seconds(d, flops, link) for d in devices]
    held = [sizes.bytes_on(d) for d in devices]
    rows.append({"network": name} | dataclasses.asdict(sizes) | {
        "step_flops": sizes.step_flops(), "devices": devices,
        "step_seconds": seconds, "bytes": held,
        "box_flops": sizes.box_flops(), "hbox_flops": sizes.hbox_flops(),
    })
    print(tables.line([
        name, f"{sizes.parameters:,}", f"{sizes.relus:,}",
        f"{sizes.products:,}", sizes.batch, f"{sizes.step_flops() / 1e9:,.1f}",
        *(f"{1000 * s:,.2f}" for s in seconds),
        *(f"{b / 2**20:,.0f}" for b in held),
        f"{sizes.box_flops() / 1e6:,.1f}", f"{sizes.hbox_flops() / 1e9:,.1f}",
    ]), flush=True)
  return rows


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    print(json.dumps(compiled_bytes(_ONE.value)))
    return
  tables.check_names(_ONLY.value, ENTRIES)
  if _CHECK.value:
    results = check(_ONLY.value or _CHECKED)
  else:
    results = model(_ONLY.value or ENTRIES)
  tables.write_json(_JSON.value, results)


if __name__ == "__main__":
  app.run(main)
