"""Flags for XLA are set only where they are known, and only once."""

import os
import subprocess
import sys

import jax
import jaxlib
import pytest

from diffai_jax.kernels import xla

NAME = "xla_cpu_experimental_ynn_fusion_type"
OTHER = "--xla_disable_hlo_passes=cse_barrier_expander"


@pytest.mark.parametrize("before, after", [
    (None, f"--{NAME}=LIBRARY_FUSION_TYPE_DOT {OTHER}"),
    ("--xla_dump_to=x",
     f"--xla_dump_to=x --{NAME}=LIBRARY_FUSION_TYPE_DOT {OTHER}"),
    (f"--{NAME}=", f"--{NAME}= {OTHER}"),
    (f"{OTHER} --{NAME}=", f"{OTHER} --{NAME}="),
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


def test_nothing_is_set_under_another_jaxlib(monkeypatch):
  monkeypatch.setattr(jaxlib, "__version__", "0.99.0")
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  xla.set_flags()
  assert "XLA_FLAGS" not in os.environ


def test_the_installed_jaxlib_takes_what_is_set():
  """XLA would abort the process on a flag that it does not know."""
  code = (
      "from diffai_jax.kernels import xla; xla.set_flags();"
      "import jax.numpy as jnp; print(float(jnp.ones((9, 9)).sum()))"
  )
  run = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=False,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()},
  )
  assert (run.returncode, run.stdout) == (0, "81.0\n"), run.stderr


@pytest.fixture
def no_cache():
  """JAX as it starts without JAX_COMPILATION_CACHE_DIR; restored afterwards."""
  names = (
      "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  )
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update("jax_compilation_cache_dir", None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_where_the_user_says(no_cache, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  xla.use_cache("~/kept/programs")
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept/programs")
  assert (tmp_path / "kept/programs").is_dir()
  xla.use_cache(str(tmp_path / "other"))  # JAX has one already.
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "kept/programs")
  assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("folder", ["", "{}/file/inside"])
def test_no_folder_is_no_cache(no_cache, tmp_path, folder):
  """Also one that cannot be made: training does not need it."""
  (tmp_path / "file").write_text("not a folder")
  xla.use_cache(folder.format(tmp_path))
  assert jax.config.jax_compilation_cache_dir is None
