"""local.sh with two real processes, which are one run."""

import json
import os
import pathlib
import subprocess
import sys

import tiny_config

_ROOT = pathlib.Path(__file__).parents[2]


def _run(config, *flags):
  return subprocess.run(
      ["bash", _ROOT / "launch" / "local.sh", "--processes=2", "--cpus-each=1",
       f"--python={sys.executable}", "--",
       f"--config={config}", "--config.compilation_cache=", *flags],
      capture_output=True, text=True, timeout=500, env=os.environ, check=False,
  )


def test_two_processes_are_one_run(tmp_path):
  """One table is printed, one line a moment is written, one set is certified."""
  folder = tmp_path / "run"
  done = _run(
      tiny_config.write(tmp_path), f"--workdir={folder}", "--config.epochs=0.8",
      "--config.certify.examples=5", "--config.certify.attack.steps=1",
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.count("Training Tiny") == 1
  assert done.stdout.count("standard accuracy") == 1
  assert "2 cpu of 2 processes" in done.stdout
  rows = [
      json.loads(line)
      for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]
  # Of the last step, and of those before it that end two seconds.
  steps = [row["step"] for row in rows]
  assert steps == sorted(set(steps)) and steps[0] > 0 and steps[-1] == 5
  assert json.loads((folder / "certification.json").read_text())["examples"] == 5
  assert (folder / "checkpoints" / "5" / "checkpoint.json").exists()


def test_an_error_of_both_ends_both(tmp_path):
  done = _run(
      _ROOT / "configs" / "quickstart.py", f"--workdir={tmp_path / 'run'}",
      "--config.epsilon=many",
  )
  assert done.returncode == 1
  assert "epsilon is 'many'" in done.stderr
  assert "Traceback" not in done.stderr
