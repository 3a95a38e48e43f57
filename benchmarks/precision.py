r"""Precision ladder: what each domain and abstract layer proves, and its price.

  python -m benchmarks.precision --workdir=runs/convsmall --data_dir=FOLDER

Takes the last checkpoint of a run of ConvSmall on MNIST, for example of

  python -m diffai_jax.main --config=configs/convsmall.py:mnist,0.1 \
      --workdir=runs/convsmall --config.epochs=10 --config.data_dir=FOLDER \
      --config.goal="Mix(Point, Sub(Lin(0,1,150,10), Box), Lin(0,0.1,150,10))"

For each domain, and for Box and HBox with an abstract layer before the second
convolution, it prints the mean width of the logits' bounds, the verified
accuracy, the time an image (without compiling, the least of three batches) and
the memory of a batch by the compiler's account.
"""

import json
import os
import time

from absl import app, flags
from flax import linen as nn
import jax
import numpy as np

from diffai_jax import domains, losses, transformers
from diffai_jax import nn as layers
from diffai_jax.data import DATASETS, load, to_unit_range
from diffai_jax.goals import REGIONS, Context, ball
from diffai_jax.training import checkpoints
from diffai_jax.types import Mode

_WORKDIR = flags.DEFINE_string("workdir", None, "run of ConvSmall on MNIST")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "prepared TFDS datasets")
_EXAMPLES = flags.DEFINE_integer("examples", 400, "test images to measure on")
_BATCH = 20


class ConvSmall(nn.Module):
  """ConvSmall with a layer before its second convolution; the same weights."""

  between: tuple = ()

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    mnist = DATASETS["mnist"]
    x = layers.Normalize(mnist.mean, mnist.std)(x, mode)
    x = layers.ReLU()(layers.Conv2D(16, 4, 2)(x, mode), mode)
    for layer in self.between:
      x = layer(x, mode)
    x = layers.ReLU()(layers.Conv2D(32, 4, 2)(x, mode), mode)
    x = layers.ReLU()(layers.Linear(100)(transformers.flatten(x), mode), mode)
    return layers.Linear(10)(layers.CorrelateAll()(x, mode), mode)


def rungs() -> dict[str, tuple[str, tuple]]:
  """Each row's domain and abstract layers."""
  rows = {name: (name, ()) for name in REGIONS}
  for domain, layer in (
      ("Box", layers.CorrelateFixed(100)), ("Box", layers.CorrelateMax(100)),
      ("Box", layers.CorrelateRandom(100)),
      ("Box", layers.CorrelateMaxPool(2)), ("Box", layers.CorrelateAll()),
      ("HBox", layers.DecorrelateAll()), ("HBox", layers.DecorrelateMin(100)),
      ("HBox", layers.DecorrelateRandom(100)),
      ("HBox", layers.ToZonotope("deepz")),
      ("ZDeepZ", layers.ToHybrid("deepz")),
  ):
    size = f"({layer.k})" if hasattr(layer, "k") else ""
    rows[f"{domain}, {type(layer).__name__}{size}"] = (domain, (layer,))
  return rows


def measure(params, images, labels, epsilon, domain, between):
  """(mean width, verified accuracy, seconds an image, MiB of a batch)."""
  network, region = ConvSmall(between), REGIONS[domain]

  def bound(images, labels):
    context = Context(None, labels, epoch=0.0)
    value = region.abstract(*ball(to_unit_range(images), epsilon), context)
    output = network.apply({"params": params}, value, Mode.CERTIFY)
    width = domains.upper(output) - domains.lower(output)
    margin = losses.margins(output, labels)
    return width.mean(axis=1), losses.proved(margin, labels)

  with jax.default_matmul_precision("highest"):
    compiled = jax.jit(bound).lower(images[:_BATCH], labels[:_BATCH]).compile()
  widths, proofs, seconds = [], [], []
  for first in range(0, len(images), _BATCH):
    start = time.perf_counter()
    width, proved = jax.block_until_ready(
        compiled(images[first : first + _BATCH], labels[first : first + _BATCH])
    )
    seconds.append((time.perf_counter() - start) / _BATCH)
    widths.append(width)
    proofs.append(proved)
  memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
  return np.mean(widths), np.mean(proofs), min(seconds), memory


def main(_):
  with open(os.path.join(_WORKDIR.value, "config.json")) as file:
    config = json.load(file)
  with checkpoints.open_manager(_WORKDIR.value, read_only=True) as manager:
    params = manager.restore(manager.latest_step())["params"]
  data = load("mnist", "test", _DATA_DIR.value)
  count = _EXAMPLES.value // _BATCH * _BATCH
  images, labels = data.images[:count], data.labels[:count]
  print("| domain | mean width | verified | ms an image | MiB a batch |")
  print("| --- | --- | --- | --- | --- |")
  for name, (domain, between) in rungs().items():
    width, share, seconds, memory = measure(
        params, images, labels, config["epsilon"], domain, between
    )
    print(f"| {name} | {width:.3f} | {share:.4f} | {1000 * seconds:.1f} |"
          f" {memory:.0f} |", flush=True)


if __name__ == "__main__":
  flags.mark_flag_as_required("workdir")
  app.run(main)
