"""Training on two devices is that on one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import diffai_jax as dj

_FOLDER = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def endings() -> dict:
  """How each check of `two_devices` ended, in a process that has two."""
  path = os.pathsep.join(filter(None, (
      str(_FOLDER.parents[1]), os.environ.get("PYTHONPATH")
  )))
  run = subprocess.run(
      [sys.executable, str(_FOLDER / "two_devices.py")],
      env=os.environ | {
          "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')}"
                       " --xla_force_host_platform_device_count=2",
          "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
      },
      capture_output=True, text=True, timeout=300, check=False,
  )
  assert run.returncode == 0, run.stderr
  return json.loads(run.stdout)


@pytest.mark.parametrize("name", [
    "augmentation", "everything_random", "parts", "batch_normalisation",
])
def test_two_devices_equal_one(endings, name):
  """The same weights, statistics and metrics."""
  assert endings[name] == {"found": None}, endings[name].get("error")


def test_python_trains_alike_on_two_devices(endings):
  """Batches are split over the devices of the process."""
  assert "found" in endings["arrays"], endings["arrays"]["error"]
  random = np.random.default_rng(0)
  data = random.random((31, 5)), random.integers(0, 2, 31)
  alone = dj.train(
      dj.nn.Linear(2), data, goal="Box", epochs=2, batch_size=30,
      progress=False,
  )
  np.testing.assert_allclose(
      endings["arrays"]["found"], alone.variables["params"]["kernel"],
      atol=1e-5,
  )
