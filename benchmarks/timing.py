"""What the benchmarks share: runs in turn, the machine's rate, steps, layers.

Times of one run alone say little on a machine that does other things as well.
So everything that is compared runs in turn, `interleaved`, and the machine's
own matrix product is among it: a share of its rate is of the same minutes.
"""

import dataclasses
import math
import os
import time
from typing import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables
from diffai_jax.app.job import Job
from diffai_jax.domains.product import example_shape
from diffai_jax.nn import Conv2D, Linear
from diffai_jax.training.state import create_state

try:
  import torch
except ImportError:  # Only the columns of PyTorch need it.
  torch = None

# Before each timed run a function that is short runs untimed for a while, as
# steps follow each other in training: the others cleared the caches, and their
# threads may still be spinning.
_SHORT_SECONDS, _SETTLING_SECONDS = 0.25, 0.05
_PRODUCT_SIZE = 2048
_STEPS_PER_EPOCH = 1000  # For schedules alone, of which benchmarks have none.
THREADS = len(os.sched_getaffinity(0))


def interleaved(
    functions: dict[str, Callable[[], None]],
    *,
    rounds: int = 5,
    seconds: float = 10.0,
    most: int = 50,
) -> dict[str, list[float]]:
  """Seconds of each run of each function, one run of each in turn.

  Each runs once before that, for what a first run has to do besides.

  Args:
    functions: return when their work is done.
    rounds: how often each runs, at least; then
    seconds: until this much time has passed, or
    most: as often as this.
  """
  for function in functions.values():
    function()
  times = {name: [] for name in functions}
  begin = time.perf_counter()
  for number in range(most):
    if number >= rounds and time.perf_counter() - begin > seconds:
      break
    for name, function in functions.items():
      if not times[name] or times[name][-1] < _SHORT_SECONDS:
        _settle(function)
      start = time.perf_counter()
      function()
      times[name].append(time.perf_counter() - start)
  return times


def _settle(function: Callable[[], None]) -> None:
  end = time.perf_counter() + _SETTLING_SECONDS
  while time.perf_counter() < end:
    function()


def milliseconds(seconds: list[float]) -> dict[str, float]:
  """The least and the median."""
  return {
      "ms": 1000 * min(seconds),
      "median_ms": 1000 * float(np.median(seconds)),
      "runs": len(seconds),
  }


def matrix_products(size: int = _PRODUCT_SIZE) -> dict[str, Callable[[], None]]:
  """A float32 product of two size × size matrices, in JAX and in PyTorch.

  Functions for `interleaved`; without PyTorch only JAX's.
  """
  rng = np.random.default_rng(0)
  matrices = [rng.normal(size=(size, size)).astype("f") for _ in range(2)]
  ours = list(map(jnp.asarray, matrices))
  product = jax.jit(jnp.matmul)
  functions = {
      "product, JAX": lambda: jax.block_until_ready(product(*ours)),
  }
  if torch is not None:
    torch.set_num_threads(THREADS)
    theirs = list(map(torch.from_numpy, matrices))
    result = torch.empty(size, size)
    functions["product, PyTorch"] = lambda: torch.mm(*theirs, out=result)
  return functions


def matrix_product_rate(
    times: dict[str, list[float]], size: int = _PRODUCT_SIZE
) -> dict[str, float]:
  """GFLOP/s of `matrix_products` by their times, best and median.

  The rate of the machine, "machine", is the best of all.
  """
  rates = {}
  for name, seconds in times.items():
    if name.startswith("product, "):
      library = name.removeprefix("product, ")
      flops = 2 * size**3 / 1e9
      rates[library] = flops / min(seconds)
      rates[f"{library}, median"] = flops / float(np.median(seconds))
  return rates | {"machine": max(rates.values())}


def rate_text(rates: dict[str, float]) -> str:
  """`PyTorch 300 (median 280), JAX 200 (median 190) GFLOP/s`."""
  names = [n for n in rates if n != "machine" and not n.endswith(", median")]
  texts = [f"{n} {rates[n]:.0f} (median {rates[f'{n}, median']:.0f})"
           for n in names]
  return ", ".join(texts) + " GFLOP/s"


def load_job(
    text: str, goal: str, batch: int, bfloat16: bool = False,
    batch_norm: bool = True,
) -> Job:
  """The network of a config, to be trained as benchmarks do.

  With Adam, gradients clipped to norm 1, images as they are, and without batch
  normalisation where that is a choice.

  Args:
    text: "FILE:VARIANT" of configs/.
    goal: what to train on.
    batch: images a step.
    bfloat16: whether its products are in bfloat16.
    batch_norm: whether a network that is known with it keeps it.
  """
  config = tables.load_config(text)
  config.goal, config.batch_size, config.bfloat16 = goal, batch, bfloat16
  # A choice of its config, not of the network.
  if config.batch_norm or not batch_norm:
    config.batch_norm = False
  config.augment.crop_padding, config.augment.flip = 0, False
  config.optimizer.name, config.optimizer.milestones = "adam", ()
  # Small: what is random has nothing to be learnt from.
  config.optimizer.learning_rate = 1e-5
  config.optimizer.l2, config.optimizer.clip_norm = 0.0, 1.0
  return Job.from_config(config)


def random_batch(job: Job, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [B, H, W, C] and labels int32 [B]."""
  rng = np.random.default_rng(seed)
  shape = (job.config.batch_size, *job.dataset.image_shape)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  labels = rng.integers(0, job.dataset.num_classes, shape[0], dtype=np.int32)
  return images, labels


class CompiledStep:
  """Our training step, compiled; called without arguments it takes one.

  Attributes:
    job: what it trains.
    state: after the steps so far.
    metrics: of the last step.
    compile_seconds: of tracing, lowering and compiling, caches apart.
    mib: arguments and temporaries, by the compiler's account.
  """

  def __init__(self, job: Job):
    jax.config.update("jax_enable_compilation_cache", False)
    self.job = job
    self.metrics = {}
    self.state = create_state(
        job.network, job.optimizer(_STEPS_PER_EPOCH), job.dataset.image_shape,
        job.config.seed,
    )
    self._batch = tuple(array[None] for array in random_batch(job))
    step = job.make_step(job.goal, _STEPS_PER_EPOCH)
    start = time.perf_counter()
    self._step = step.lower(self.state, *self._batch).compile()
    self.compile_seconds = time.perf_counter() - start
    stats = self._step.memory_analysis()
    held = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    self.mib = held / 2**20

  def __call__(self) -> None:
    self.state, self.metrics = self._step(self.state, *self._batch)
    jax.block_until_ready((self.state, self.metrics))

  def is_finite(self) -> bool:
    """Whether the last step's loss and gradient were."""
    values = (self.metrics["loss"], self.metrics["gradient_norm"])
    return all(map(math.isfinite, map(float, values)))


@dataclasses.dataclass(frozen=True)
class AffineLayer:
  """A convolution or dense layer of a network, at the shape of its input.

  Attributes:
    path: its module's.
    layer: the module, for its attributes alone.
    shape: of one example of its input.
    products: multiply-adds of one example, with those of padding.
  """

  path: tuple[str, ...]
  layer: nn.Module
  shape: tuple[int, ...]
  products: int


def affine_layers(network: nn.Module, image_shape) -> list[AffineLayer]:
  """All of a network's, in the order in which they are called."""
  found = []

  def listen(call, args, kwargs, context):
    result, layer = call(*args, **kwargs), context.module
    called = context.method_name == "__call__"
    if called and isinstance(layer, (Conv2D, Linear)):
      shape = tuple(example_shape(args[0]))
      window = getattr(layer, "kernel_size", 1) ** 2
      products = math.prod(result.shape[1:]) * window * shape[-1]
      found.append(AffineLayer(layer.path, layer, shape, products))
    return result

  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  with nn.intercept_methods(listen):
    jax.eval_shape(network.init, jax.random.key(0), images)
  return found
