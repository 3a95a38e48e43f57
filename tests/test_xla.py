"""Flags for XLA are set only where they are known, and only once."""

import os
import subprocess
import sys

import jaxlib
import pytest

from diffai_jax import xla

NAME = "xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize("before, after", [
    (None, f"--{NAME}=LIBRARY_FUSION_TYPE_DOT"),
    ("--xla_dump_to=x", f"--xla_dump_to=x --{NAME}=LIBRARY_FUSION_TYPE_DOT"),
    (f"--{NAME}=", f"--{NAME}="),
])
def test_flags_are_added_to_what_is_set(monkeypatch, before, after):
  monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
  if before is None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
  else:
    monkeypatch.setenv("XLA_FLAGS", before)
  xla.set_flags()
  assert os.environ["XLA_FLAGS"] == after
  xla.set_flags()
  assert os.environ["XLA_FLAGS"] == after


def test_remat_keeps_its_second_run(monkeypatch):
  monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
  monkeypatch.setenv("XLA_FLAGS", f"--{NAME}=")
  xla.set_flags(remat=True)
  assert os.environ["XLA_FLAGS"] == (
      f"--{NAME}= --xla_disable_hlo_passes=cse_barrier_expander"
  )


def test_nothing_is_set_under_another_jaxlib(monkeypatch):
  monkeypatch.setattr(jaxlib, "__version__", "0.99.0")
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  xla.set_flags()
  assert "XLA_FLAGS" not in os.environ


def test_the_installed_jaxlib_takes_what_is_set():
  """XLA would abort the process on a flag that it does not know."""
  code = (
      "from diffai_jax import xla; xla.set_flags(True);"
      "import jax.numpy as jnp; print(float(jnp.ones((9, 9)).sum()))"
  )
  run = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=False,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
  )
  assert (run.returncode, run.stdout) == (0, "81.0\n"), run.stderr
