r"""How cost grows with batch, width, depth and the number of generators.

  python -m benchmarks.scaling --json=FILE

A training step on points and boxes, and certification by HBox, each over sizes
of one thing while the others stay: milliseconds of a compiled run (least and
median, all sizes of a question in turn) and, in the last column, the exponent p
of size^p, fitted to the least times of the three largest sizes.

The network has convolutions of 16 and 32 filters, 4×4 and stride 2, and 100
dense units, as ConvSmall, on images of 28×28 pixels, 100 a training step, 4 a
run of HBox. "width" multiplies the filters and units; "depth" are convolutions of
16 filters, 3×3, before them; "generators" are the pixels of an image, each of
which has one.
"""

from collections.abc import Callable
import dataclasses

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import tables, timing
from diffai_jax.app import config_dict
from diffai_jax.data import Dataset
from diffai_jax.kernels import xla
from diffai_jax.networks import convnet
from diffai_jax.objectives import objective
from diffai_jax.regions import Linf
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step
from diffai_jax.verification import measures, programs
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.methods import HBox

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "of timing for each question")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed runs of each, at least")

_EPSILON = 0.1
_CLASSES = 10
_FITTED = 3


@dataclasses.dataclass(frozen=True)
class Case:
  """A network, its images, and how many of them."""

  batch: int
  width: int = 1
  depth: int = 0
  side: int = 28

  def dataset(self) -> Dataset:
    """Images without augmentation."""
    shape = (self.side, self.side, 1)
    return Dataset(shape, _CLASSES, (0.5,), (0.5,), _EPSILON)

  def network(self):
    """As the docstring says."""
    before = ((16 * self.width, 3, 1),) * self.depth
    ends = ((16 * self.width, 4, 2), (32 * self.width, 4, 2))
    return convnet(
        _CLASSES, (0.5,), (0.5,), before + ends, 1, (100 * self.width,)
    )

  def examples(self) -> tuple[np.ndarray, np.ndarray]:
    """Random images [1, B, H, W, 1] and labels [1, B]."""
    rng = np.random.default_rng(0)
    shape = (1, self.batch, self.side, self.side, 1)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    return images, rng.integers(0, _CLASSES, shape[:2], dtype=np.int32)


def training(case: Case) -> Callable[[], None]:
  """A compiled training step; runs from the same state each time."""
  network, data = case.network(), case.dataset()
  optimizer = optimizers.create(config_dict.ConfigDict({
      "name": "adam", "learning_rate": 1e-4, "milestones": (), "decay": 1.0,
      "momentum": 0.9, "l2": 0.0, "clip_norm": 1.0,
  }), lambda step: step)
  held = [create_state(network, optimizer, data.image_shape, 0)]
  step = make_step(
      network, objective("Mix(Point, Box, 0.5)"), optimizer, data, _EPSILON, 0,
      lambda step: step / 100,
  )
  batch = case.examples()

  def run() -> None:
    held[0], metrics = step(held[0], *batch)
    jax.block_until_ready((held[0], metrics))

  return run


def certifying(case: Case) -> Callable[[], None]:
  """A compiled batch of HBox."""
  network = case.network()
  images, labels = case.examples()
  params = jax.jit(network.init)(
      jax.random.key(0), jnp.zeros((1, *images.shape[2:]))
  )["params"]
  inputs = checked(images[0], labels[0], Linf(_EPSILON))
  _, program = programs.compile_measure(
      "HBox", measures.MeasureMargin(network, HBox()), params, inputs, None,
      len(inputs),
  )
  batch = jax.tree.map(lambda leaf: leaf[None], inputs)
  return lambda: jax.block_until_ready(program(params, batch))


QUESTIONS = {  # Name of the size -> what runs, and a case for each size.
    "training, batch": (
        training, {n: Case(n) for n in (25, 50, 100, 200, 400)}
    ),
    "training, width": (
        training, {n: Case(100, width=n) for n in (1, 2, 4, 8)}
    ),
    "training, depth": (
        training, {n: Case(100, depth=n) for n in (0, 1, 2, 4, 8)}
    ),
    "HBox, batch": (certifying, {n: Case(n) for n in (1, 2, 4, 8, 16)}),
    "HBox, width": (certifying, {n: Case(4, width=n) for n in (1, 2, 4)}),
    "HBox, depth": (certifying, {n: Case(4, depth=n) for n in (0, 1, 2, 3)}),
    "HBox, generators": (
        certifying, {n**2: Case(4, side=n) for n in (16, 20, 28, 40, 56)}
    ),
}


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  results = {}
  print(tables.table(("question", "size", "ms", "median", "exponent"), []))
  for question, (make, cases) in QUESTIONS.items():
    functions = {str(size): make(case) for size, case in cases.items()}
    times = timing.interleaved(
        functions, rounds=_ROUNDS.value, seconds=_SECONDS.value
    )
    found = {n: timing.milliseconds(seconds) for n, seconds in times.items()}
    pairs = [(float(n), row["ms"]) for n, row in found.items() if float(n)]
    exponent = np.polyfit(*np.log(pairs[-_FITTED:]).T, 1)[0]
    results[question] = {"times": found, "exponent": float(exponent)}
    for n, row in found.items():
      last = f"{exponent:.2f}" if n == list(found)[-1] else None
      print(tables.line([
          question, f"{int(n):,}", f"{row['ms']:.2f}",
          f"{row['median_ms']:.2f}", last,
      ]), flush=True)
    tables.write_json(_JSON.value, results)


if __name__ == "__main__":
  app.run(main)
