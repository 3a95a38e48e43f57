r"""How close a Point + Box step comes to the machine's limit, layer by layer.

  python -m benchmarks.roofline --json=FILE [--only="CIFAR ConvBig"]

A step's floor are 9 forward passes' multiply-adds at the rate of the machine's
own float32 matrix product, measured in turn with the step: 3 passes (points,
centers, radii), each with two gradients. "share" is the floor over the step's
time.

Below it each convolution and dense layer alone, at the shapes and in the forms
that our transformers have: points and centers in one batch with the kernel,
radii with its magnitude. "forward", "by input" and "by kernel" are milliseconds
and GFLOP/s of the layer's result and of its two gradients. The first layer's
gradient by its input is not needed. Layers of one shape are timed once, and
count as often as they occur. What the layers' sum leaves of the step is
everything else: ReLUs, normalisation, differences of logits, Adam; it is below
zero where the compiler does better with the whole than with its parts.

Each network runs in a process of its own. All times are the least of the runs.
"""

from collections.abc import Callable
import json

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables, timing
from diffai_jax.kernels import xla
from diffai_jax.kernels.images import convolve
from diffai_jax.nn import Conv2D

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "networks; all by default")
_SECONDS = flags.DEFINE_float("seconds", 30.0, "of timing for each network")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed runs of each, at least")
_ONE = flags.DEFINE_string("one", None, "network to measure in this process")

GOAL = "Mix(Point, Box, 0.5)"
NETWORKS = {  # Config and batch, as in `benchmarks.training`.
    "MNIST ConvSmall": ("convsmall.py:mnist", 100),
    "MNIST ConvMed": ("convmed.py:mnist", 100),
    "CIFAR ConvMed": ("convmed.py:cifar10", 100),
    "CIFAR ConvBig": ("convbig.py", 50),
    "CIFAR ConvLargeIBP": ("convlarge_ibp.py", 20),
    "CIFAR ResNet-Tiny": ("resnet_tiny.py", 50),
    "CIFAR ResNet-18": ("resnet18.py", 10),
}
PARTS = ("forward", "by input", "by kernel")
_STREAMS = 3  # Points, centers, radii.


def layer_key(layer: timing.AffineLayer, is_first: bool) -> str:
  """What layers that cost the same share."""
  module = layer.layer
  sizes = "×".join(map(str, layer.shape))
  first = ", first" if is_first else ""
  if isinstance(module, Conv2D):
    kernel = f"{module.kernel_size}×{module.kernel_size}"
    return (
        f"{sizes}, conv {module.filters}, {kernel}, stride {module.stride},"
        f" pad {module.padding}{first}"
    )
  return f"{sizes}, dense {module.features}{first}"


def layer_functions(
    layer: timing.AffineLayer, batch: int, is_first: bool
) -> dict[str, Callable[[], None]]:
  """Forward and gradients of one layer, each compiled alone, by its part."""
  module, rng = layer.layer, np.random.default_rng(0)
  if isinstance(module, Conv2D):
    size = module.kernel_size
    kernel_shape = (size, size, layer.shape[2], module.filters)

    def linear(x, kernel):
      return convolve(x, kernel, module.stride, module.padding)
  else:
    kernel_shape = (layer.shape[0], module.features)
    linear = jnp.matmul

  def both(values, radii, kernel):
    return linear(values, kernel), linear(radii, jnp.abs(kernel))

  def by_input(values, radii, kernel, slopes):
    _, pull = jax.vjp(lambda v, r: both(v, r, kernel), values, radii)
    return pull(slopes)

  def by_kernel(values, radii, kernel, slopes):
    _, pull = jax.vjp(lambda k: both(values, radii, k), kernel)
    return pull(slopes)

  def normal(shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  inputs = (
      normal((2 * batch, *layer.shape)), normal((batch, *layer.shape)),
      normal(kernel_shape),
  )
  forward = jax.jit(both)
  slopes = jax.block_until_ready(forward(*inputs))
  functions = {PARTS[0]: (forward, inputs)}
  if not is_first:
    functions[PARTS[1]] = (jax.jit(by_input), (*inputs, slopes))
  functions[PARTS[2]] = (jax.jit(by_kernel), (*inputs, slopes))
  return {name: runner(*pair) for name, pair in functions.items()}


def runner(function: Callable, inputs: tuple) -> Callable[[], None]:
  return lambda: jax.block_until_ready(function(*inputs))


def measure(name: str) -> dict:
  """The step's floor and share, and a row for each shape of layer."""
  config, batch = NETWORKS[name]
  job = timing.load_job(config, GOAL, batch)
  step = timing.CompiledStep(job)
  layers = timing.affine_layers(job.network, job.dataset.image_shape)
  kinds, counts = {}, {}
  for number, layer in enumerate(layers):
    key = layer_key(layer, number == 0)
    kinds[key] = (layer, number == 0)
    counts[key] = counts.get(key, 0) + 1
  functions = {"step": step} | timing.matrix_products()
  for key, (layer, is_first) in kinds.items():
    for part, run in layer_functions(layer, batch, is_first).items():
      functions[f"{key}: {part}"] = run
  times = timing.interleaved(
      functions, rounds=_ROUNDS.value, seconds=_SECONDS.value
  )

  rows = []
  for key, (layer, _) in kinds.items():
    gflop = 2 * _STREAMS * batch * layer.products / 1e9
    row = {"layer": key, "count": counts[key], "gflop": gflop, "ms": 0.0}
    for part in PARTS:
      seconds = times.get(f"{key}: {part}")
      if seconds is not None:
        own = timing.milliseconds(seconds)
        row[part] = own | {"gflops": gflop / min(seconds)}
        row["ms"] += own["ms"] * counts[key]
    rows.append(row)
  rates = timing.matrix_product_rate(times)
  gflop = sum(3 * row["gflop"] * row["count"] for row in rows)
  own = timing.milliseconds(times["step"])
  floor = 1000 * gflop / rates["machine"]
  return {
      "network": name, "batch": batch, "goal": GOAL, "step": own,
      "rates": rates, "gflop": gflop, "gflops": gflop / own["ms"] * 1000,
      "floor_ms": floor, "share": floor / own["ms"],
      "layers_ms": sum(row["ms"] for row in rows), "layers": rows,
  }


def report(result: dict) -> str:
  """A network's tables."""
  own, layers = result["step"], result["layers_ms"]
  rows = []
  for row in result["layers"]:
    parts = [
        part and f"{part['ms']:.2f}, {part['gflops']:.0f}"
        for part in map(row.get, PARTS)
    ]
    rows.append([
        row["layer"], row["count"], f"{row['gflop']:.2f}", *parts,
        f"{row['ms']:.1f}", f"{row['ms'] / own['ms']:.0%}",
    ])
  header = (
      "layer", "times", "GFLOP each",
      *(f"{part}: ms, GFLOP/s" for part in PARTS), "all, ms", "of the step",
  )
  return "\n".join((
      f"\n**{result['network']}, batch {result['batch']}**\n",
      f"Matrix product: {timing.rate_text(result['rates'])}. Step:"
      f" {own['ms']:.1f} ms (median {own['median_ms']:.1f}),"
      f" {result['gflop']:.2f} GFLOP, {result['gflops']:.0f} GFLOP/s. Floor:"
      f" {result['floor_ms']:.1f} ms; share: {result['share']:.0%}. Layers"
      f" alone: {layers:.1f} ms; the rest: {own['ms'] - layers:.1f} ms.\n",
      tables.table(header, rows),
  ))


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    print(json.dumps(measure(_ONE.value)))
    return
  tables.check_names(_ONLY.value, NETWORKS)
  results = []
  for name in _ONLY.value or NETWORKS:
    results.append(tables.run_apart("benchmarks.roofline", name))
    print(report(results[-1]), flush=True)
    tables.write_json(_JSON.value, results)
  header = ("network", "batch", "step, ms", "median", "floor, ms", "GFLOP/s",
            "product, GFLOP/s", "share")
  rows = [
      [r["network"], r["batch"], f"{r['step']['ms']:.1f}",
       f"{r['step']['median_ms']:.1f}", f"{r['floor_ms']:.1f}",
       f"{r['gflops']:.0f}", f"{r['rates']['machine']:.0f}",
       f"{r['share']:.0%}"]
      for r in results
  ]
  print(f"\n{tables.table(header, rows)}")


if __name__ == "__main__":
  app.run(main)
