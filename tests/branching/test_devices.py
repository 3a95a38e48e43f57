"""Rounds on two devices: verdicts and bounds are those of one."""

import os
import subprocess
import sys

import numpy as np
import small_networks

from diffai_jax.branching import Settings, search
from diffai_jax.regions import Bounds, linear

SEEDS = (3, 39)


def found():
  """Verdicts and bounds of two networks' properties, [2, 3, 2]."""
  results = []
  for seed in SEEDS:
    weights = small_networks.random_weights(seed)
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (2, 4)).astype(np.float32)
    largest = [
        small_networks.largest(weights, x - 0.5, x + 0.5, np.array([1, -1, 0]))
        for x in images
    ]
    rows = np.tile(np.array([1, -1, 0], np.float32), (2, 1, 1))
    offsets = np.array([-0.05, 0.05]) - largest
    one = search(
        small_networks.graph_of(weights), images,
        Bounds(images - 0.5, images + 0.5),
        linear(rows, offsets.astype(np.float32)[:, None]),
        Settings(seconds=60, batch=8, few_inputs=0),
    )
    results.append([one.verified, one.falsified, one.subdomains])
  return np.array(results)


def test_two_devices_decide_what_one_does(tmp_path):
  flags = os.environ.get("XLA_FLAGS", "")
  flags += " --xla_force_host_platform_device_count=2"
  path = tmp_path / "found.npy"
  done = subprocess.run(
      [sys.executable, __file__, path], env=os.environ | {"XLA_FLAGS": flags},
      capture_output=True, text=True, check=False,
  )
  assert done.returncode == 0, done.stderr
  theirs, ours = np.load(path), found()
  np.testing.assert_array_equal(theirs[:, :2], ours[:, :2])
  assert ours[:, 0].tolist() == [[1, 0]] * len(SEEDS)
  assert ours[:, 1].tolist() == [[0, 1]] * len(SEEDS)
  # Another order of the same splits, on both devices.
  assert np.all(theirs[:, 2].sum(1) > 0)


if __name__ == "__main__":
  import jax

  assert jax.local_device_count() == 2
  np.save(sys.argv[1], found())
