"""Branch and bound against a MILP: random networks of up to 60 ReLUs.

  python -m benchmarks.milp --networks=200

Of each network the maximum of a row over a box is found by scipy's `milp`, with a
binary variable for each ReLU. Then two properties are asked for, one right below and
one right above it: the one holds, the other does not. Gaps are drawn between
--least of the maximum and a tenth of it.

Exits with 1 if a verdict is wrong. Those that stay unknown are counted.
"""

import collections
import os
import sys
import time

from absl import app, flags
import numpy as np

from diffai_jax.branching import Settings, search
from diffai_jax.regions import Bounds, linear

# Small networks and their MILP belong to the tests.
sys.path.insert(
    0, os.path.join(os.path.dirname(__file__), os.pardir, "tests", "branching")
)
import small_networks

_NETWORKS = flags.DEFINE_integer("networks", 200, "how many")
_FIRST = flags.DEFINE_integer("first", 0, "seed of the first one")
_LEAST = flags.DEFINE_float("least", 1e-3, "smallest gap, of the maximum's size")
_SECONDS = flags.DEFINE_float("seconds", 60.0, "of a property")
# Inputs, hidden layers, outputs.
_SIZES = (
    (3, 10, 10, 2), (4, 30, 3), (5, 20, 20, 3), (6, 20, 20, 20, 4),
    (8, 60, 2), (4, 15, 15, 15, 15, 3), (10, 30, 30, 5), (30, 25, 15, 10),
)


def _problem(seed: int):
  """(weights, image, radius, row, maximum) of a random network."""
  rng = np.random.default_rng(seed)
  weights = small_networks.random_weights(seed, _SIZES[seed % len(_SIZES)])
  inputs, outputs = len(weights[0][0]), len(weights[-1][1])
  image = rng.uniform(-1, 1, inputs).astype(np.float32)
  radius = np.float32(rng.choice([0.1, 0.3, 0.6]) * (4 / inputs) ** 0.5)
  row = np.zeros(outputs, np.float32)
  row[rng.permutation(outputs)[:2]] = 1, -1
  return weights, image, radius, row, small_networks.largest(
      weights, image - radius, image + radius, row
  )


def main(argv: list[str]) -> None:
  del argv
  counts, wrong = collections.Counter(), []
  began = time.monotonic()
  for seed in range(_FIRST.value, _FIRST.value + _NETWORKS.value):
    weights, image, radius, row, largest = _problem(seed)
    rng = np.random.default_rng(seed)
    gap = 10 ** rng.uniform(np.log10(_LEAST.value), -1) * (1 + abs(largest))
    images = np.stack([image, image])
    region = Bounds(images - radius, images + radius)
    offsets = np.array([-gap, gap], np.float32)[:, None] - np.float32(largest)
    spec = linear(np.stack([row, row])[:, None], offsets)
    found = search(
        small_networks.graph_of(weights), images, region, spec,
        Settings(seconds=_SECONDS.value, batch=16),
    )
    if found.verified[1] or found.falsified[0]:
      wrong.append(seed)
      print(f"seed {seed}: wrong", flush=True)
    decided = found.verified[0], found.falsified[1]
    for name, known in zip(("holds", "does not hold"), decided):
      counts[f"{name}: {'decided' if known else 'unknown'}"] += 1
      if not known:
        print(f"seed {seed}, sizes {_SIZES[seed % len(_SIZES)]}, gap {gap:.2g},"
              f" {name}: unknown, {found.subdomains} subdomains", flush=True)
    if (seed + 1) % 10 == 0:
      print(f"up to seed {seed}: {dict(counts)}; wrong: {wrong}", flush=True)
  print(f"{_NETWORKS.value} networks, {time.monotonic() - began:.0f} s;"
        f" {dict(counts)}; wrong: {wrong}")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  app.run(main)
