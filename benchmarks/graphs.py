r"""Graphs of plain networks at scale: read, compared, and bounded soundly.

  python -m benchmarks.graphs --networks=200 --points=1000000

Random networks of plain Flax layers are read by `from_jax`. In float32 the graph's
outputs are compared with the network's (1e-5), and points of random boxes with the
bounds in three domains: Box, HBox, and pure zonotopes. A line is printed for each
failure, and each --every networks; at last what was seen.

Exits with 1 if there was a failure.
"""

import os
import sys
import time

from absl import app, flags
import numpy as np

# Networks and search belong to the tests, which run a few of them.
sys.path.insert(
    0, os.path.join(os.path.dirname(__file__), os.pardir, "tests")
)
import plain_search

_NETWORKS = flags.DEFINE_integer("networks", 200, "how many")
_POINTS = flags.DEFINE_integer("points", 1_000_000, "in all")
_FIRST = flags.DEFINE_integer("first", 0, "seed of the first network")
_EVERY = flags.DEFINE_integer("every", 10, "networks between two lines")


def main(argv):
  del argv
  start, failures, seen = time.monotonic(), 0, []
  each = -(-_POINTS.value // _NETWORKS.value)
  for done in range(1, _NETWORKS.value + 1):
    seed = _FIRST.value + done - 1
    try:
      found = plain_search.search(seed, each)
      seen.append(found)
      failed = "" if found.sound else (
          f"differs by {found.difference:.1e}, escapes {found.escapes}"
      )
    except Exception as error:  # All networks are tried, whatever one does.
      failed = f"{type(error).__name__}: {error}"
    if failed:
      failures += 1
      print(f"seed {seed}: {failed}", flush=True)
    if done % _EVERY.value == 0:
      print(_summary(seen, failures, time.monotonic() - start), flush=True)
  print(_summary(seen, failures, time.monotonic() - start))
  sys.exit(1 if failures else 0)


def _summary(seen, failures: int, seconds: float) -> str:
  """One line."""
  if not seen:
    return f"{failures} failures, {seconds:.0f} s"
  worst = max(found.difference for found in seen)
  finite = {
      name: f"{np.mean([found.finite[name] for found in seen]):.0%}"
      for name in seen[0].finite
  }
  points = sum(found.points for found in seen)
  return (
      f"{len(seen)} networks, {points} points, {failures} failures; graphs differ"
      f" by {worst:.1e} at most; finite bounds {finite}; {seconds:.0f} s"
  )


if __name__ == "__main__":
  app.run(main)
