"""The check of a machine: what fails is told, and takes nothing else with it."""

import json
import os
import pathlib
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[2]
# Parts are processes; here they are answers.
_PROGRAM = """
import json, subprocess, sys
from unittest import mock
from absl import app
from benchmarks import gpu_check

STEP = {"ms": 1.5, "median_ms": 2.0, "runs": 5, "network": "CNN7", "batch": 128,
        "examples_per_second": 64000.0, "compile_seconds": 3.0, "mib": 10.0}
SEARCH = {"networks": 3, "points": 6000, "bounds": 9, "finite": 9, "escapes": 0}
ANSWERS = {
    "machine": {"platform": "gpu", "kind": "Card 1", "devices": 2,
                "platform_version": "cuda 13", "parts": {
        "soundness": None, "step/CNN7/float32": None, "step/CNN7/tf32": None,
        "torch/CNN7/float32": "PyTorch is not installed", "training": None,
        "certification/ConvSmall": None,
    }},
    "soundness": {"float32": SEARCH, "float64": {"not available": "no float64"}},
    "step/CNN7/float32": STEP,
    "certification/ConvSmall": {"HBox": {"ms": 0.2, "median_ms": 0.3, "batch": 64}},
}

def run(command, **options):
  name = command[-1].removeprefix("--one=")
  if name == "training":
    raise subprocess.TimeoutExpired(command, 1)
  if name not in ANSWERS:
    return mock.Mock(returncode=1, stdout="", stderr="trace\\nError: no memory\\n")
  return mock.Mock(returncode=0, stdout="x\\n" + json.dumps(ANSWERS[name]))

with mock.patch.object(gpu_check.subprocess, "run", run), \\
    mock.patch.object(gpu_check, "_cards", lambda: ["Card 1, 80 GB, driver 5"]):
  app.run(gpu_check.main)
"""


def test_parts_that_fail_are_told_and_the_others_are_written(tmp_path):
  done = subprocess.run(
      [sys.executable, "-c", _PROGRAM, f"--json={tmp_path}/found.json",
       f"--table={tmp_path}/found.md"],
      capture_output=True, text=True, timeout=300, check=False, cwd=_ROOT,
      env=os.environ | {"PYTHONPATH": str(_ROOT)},
  )
  assert done.returncode == 1, done.stderr
  found = json.loads((tmp_path / "found.json").read_text())
  parts = found["parts"]
  assert parts["step/CNN7/float32"]["ms"] == 1.5
  assert parts["step/CNN7/tf32"]["failed"] == "Error: no memory"
  assert parts["training"]["failed"] == "it took more than 30 minutes"
  assert parts["torch/CNN7/float32"]["not available"]
  assert found["machine"]["kind"] == "Card 1"
  assert found["system"]["packages"]["jax"]
  table = (tmp_path / "found.md").read_text()
  assert table.strip() in done.stdout
  for told in (
      "2 Card 1 (gpu; cuda 13)", "Card 1, 80 GB, driver 5",
      "| soundness, float32 | - | - | - | - | - | - | 3 networks, 6,000 points,"
      " 0 escapes |",
      "no float64", "failed: Error: no memory", "PyTorch is not installed",
      "| step/CNN7/float32 | 128 | 1.500 | 2.000 | 64,000 | 10 | 3.0 | CNN7 |",
      "| certification/ConvSmall, HBox, an image | 64 | 0.200 |",
  ):
    assert told in table
