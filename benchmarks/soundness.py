r"""Soundness at scale: random networks, and points that leave their bounds.

  python -m benchmarks.soundness --points=1000000
  python -m benchmarks.soundness --plant=relu_offset

Networks have every layer, rule and abstract layer; a layer's weights have one of
the magnitudes from 1e-38 to 1e37. The bounds of every step, in float32 and in
float64, are compared with concrete runs in the same type and in NumPy's long
double. Bounds that are NaN or infinite say nothing; "finite" is the share of those
that do. Each --every networks a line is printed, so that a run that is stopped
has said something.

--plant puts a fault into the package: no "widening" for rounding, ReLU's offset
times 0.9 ("relu_offset"), or the same symbols for all calls of a layer
("shared_names"). The search then ends at the first escape.

Exits with 1 if points escaped and no fault was planted, or none did and one was.
"""

import os
import sys
import time

from absl import app, flags
import jax
import numpy as np

# The search belongs to the tests, which have a small one of their own.
sys.path.insert(
    0, os.path.join(os.path.dirname(__file__), os.pardir, "tests")
)
import soundness_search

_POINTS = flags.DEFINE_integer("points", 1_000_000, "in all")
_EACH = flags.DEFINE_integer("each", 10_000, "points a network and type")
_FIRST = flags.DEFINE_integer("first", 0, "seed of the first network")
_SMALL = flags.DEFINE_bool("small", False, "whether networks have few layers")
_EVERY = flags.DEFINE_integer("every", 5, "networks between two lines")
_PLANT = flags.DEFINE_enum(
    "plant", None, sorted(soundness_search.FAULTS), "a fault to look for"
)


def main(argv) -> None:
  del argv
  jax.config.update("jax_enable_x64", True)
  start, seed = time.monotonic(), _FIRST.value
  total = soundness_search.Found()
  with soundness_search.planted(_PLANT.value):
    while total.points < _POINTS.value:
      for dtype in (np.float32, np.float64):
        total += soundness_search.search(
            seed, dtype, _EACH.value, _SMALL.value
        )
      seed += 1
      ends = total.points >= _POINTS.value or (_PLANT.value and total.escapes)
      if ends or (seed - _FIRST.value) % _EVERY.value == 0:
        _report(seed - _FIRST.value, total, time.monotonic() - start)
      if ends:
        break
  sys.exit(bool(total.escapes) != bool(_PLANT.value))


def _report(networks: int, found: soundness_search.Found, seconds: float):
  share = found.finite / max(found.bounds, 1)
  print(
      f"{networks} networks, {found.points} points, {found.escapes} escapes;"
      f" {found.bounds} bounds, finite {share:.2f}; {seconds:.0f} s"
      f"{'; seeds ' + str(found.seeds) if found.seeds else ''}",
      flush=True,
  )


if __name__ == "__main__":
  app.run(main)
