r"""A model of time and memory, for each network on any number of devices.

  python -m benchmarks.cost_model
  python -m benchmarks.cost_model --devices=1,8,64 --tflops=40 --gb_per_second=200
  python -m benchmarks.cost_model --check

From the number of parameters P, of ReLU units U and of multiply-adds M of one
example; B images a step are split over D devices. It assumes that

- a step on a point and a box is worth 9 forward passes (a point's, and twice as
  much for gradients; a box has a center and a radius), of 2 M operations an image
  each, at --tflops on a device, whatever the layer;
- gradients are averaged in a ring: 2 (D-1)/D times 4 P bytes go out of each
  device, at --gb_per_second, after the step's products and not during them;
- a device holds weights, gradients and two moments of Adam (16 P bytes,
  replicated), and for its B/D images a point, a center and a radius before and
  after each ReLU (24 U bytes an image, split);
- Box is 2 forward passes of an image, and HBox at most one more for each input
  variable, whose generator it carries until it is merged or the network ends.

--check compiles steps for 1, 2 and 4 devices that this machine's CPU stands for,
and prints what a device holds by the compiler's account beside the model's. The
devices share the machine's cores, so their times say nothing about many.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys

from absl import app, flags, logging
import jax
import jax.numpy as jnp

from benchmarks import tables, timing
from diffai_jax.app.job import Job
from diffai_jax.networks import describe
from diffai_jax.training.cost import PASSES
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
_FLOAT = 4  # Bytes.


@dataclasses.dataclass(frozen=True)
class Model:
  """The sizes of a network, and what follows from them.

  Attributes:
    parameters, relus, products: of the network; multiply-adds of one example.
    inputs: numbers of an image.
    batch: images of a step, over all devices.
  """

  parameters: int
  relus: int
  products: int
  inputs: int
  batch: int

  @classmethod
  def of(cls, job: Job) -> "Model":
    shape = job.dataset.image_shape
    sizes = describe(job.network, shape)
    products = sum(
        layer.products for layer in timing.affine_layers(job.network, shape)
    )
    return cls(
        sizes.parameters, sizes.relus, products, math.prod(shape),
        job.config.batch_size,
    )

  def step_flops(self) -> float:
    """Operations of a step, over all devices."""
    return PASSES * 2 * self.products * self.batch

  def step_seconds(self, devices: int, flops: float, link: float) -> float:
    """Seconds of a step.

    Args:
      devices: over which the batch is split.
      flops: operations a second of one device.
      link: bytes a second that leave one device.
    """
    reduced = 2 * (devices - 1) / devices * _FLOAT * self.parameters
    return self.step_flops() / devices / flops + reduced / link

  def bytes_on(self, devices: int) -> float:
    """What a step takes on one of so many devices."""
    replicated = 4 * _FLOAT * self.parameters
    return replicated + 6 * _FLOAT * self.relus * self.batch / devices

  def box_flops(self) -> float:
    """Operations of bounding one image with Box."""
    return 2 * 2 * self.products

  def hbox_flops(self) -> float:
    """The most operations that HBox takes for one image."""
    return (2 + self.inputs) * 2 * self.products


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
    model = Model.of(Job.from_config(tables.load_config(ENTRIES[name])))
    for devices in _CHECKED_DEVICES:
      found, expected = _compiled_on(name, devices), model.bytes_on(devices)
      rows.append({
          "network": name, "devices": devices, "compiled_bytes": found,
          "model_bytes": expected,
      })
      print(tables.line([
          name, model.batch, devices, f"{found / 2**20:.1f}",
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
    sizes = Model.of(Job.from_config(tables.load_config(ENTRIES[name])))
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
