"""Flags for XLA are those that the installed one knows, and set only once."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import jaxlib
import pytest

from diffai_jax.kernels import platforms, xla

NAME = "xla_cpu_experimental_ynn_fusion_type"
OTHER = "--xla_disable_hlo_passes=cse_barrier_expander"
BOTH = f"--{NAME}=LIBRARY_FUSION_TYPE_DOT {OTHER}"


@pytest.fixture
def asked(monkeypatch, tmp_path):
  """Lists what XLA is asked; `.unknown` are the flags that it ends at."""
  found = types.SimpleNamespace(calls=[], unknown=set(), folder=tmp_path)

  def run(command, env, **_):
    assert command[0] == sys.executable
    assert env["JAX_PLATFORMS"] == "cpu"
    flags = env["XLA_FLAGS"].split()
    found.calls.append(flags)
    return types.SimpleNamespace(
        returncode=int(any(flag in found.unknown for flag in flags))
    )

  monkeypatch.setenv("HOME", str(tmp_path))
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setattr(xla.subprocess, "run", run)
  monkeypatch.setattr(xla, "_is_for_cpus", lambda: True)
  return found


def flags_set(monkeypatch):
  """What XLA_FLAGS is from nothing."""
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  xla.set_flags()
  return os.environ["XLA_FLAGS"]


@pytest.mark.parametrize("before, after", [
    (None, BOTH),
    ("--xla_dump_to=x", f"--xla_dump_to=x {BOTH}"),
    (f"--{NAME}=", f"--{NAME}= {OTHER}"),
    (f"{OTHER} --{NAME}=", f"{OTHER} --{NAME}="),
])
def test_flags_are_added_to_what_is_set(monkeypatch, asked, before, after):
  if before is not None:
    monkeypatch.setenv("XLA_FLAGS", before)
  xla.set_flags()
  assert os.environ["XLA_FLAGS"] == after
  xla.set_flags()
  assert os.environ["XLA_FLAGS"] == after


def test_an_answer_is_remembered(monkeypatch, asked):
  """One process where all are known; none when it is asked again."""
  assert flags_set(monkeypatch) == BOTH
  assert asked.calls == [BOTH.split()]
  assert flags_set(monkeypatch) == BOTH
  assert len(asked.calls) == 1
  monkeypatch.setattr(jaxlib, "__version__", "0.99.0")  # Another: ask anew.
  asked.unknown = {OTHER}
  assert flags_set(monkeypatch) == BOTH.split()[0]
  assert len(asked.calls) == 4


def test_what_xla_does_not_know_is_left_out(monkeypatch, asked):
  asked.unknown = {OTHER}
  for _ in range(2):
    assert flags_set(monkeypatch) == BOTH.split()[0]
  assert asked.calls == [BOTH.split(), BOTH.split()[:1], [OTHER]]


@pytest.mark.parametrize("content", [
    "", "{", "[]", '{"x": 1}', "\x00", "{ABOUT}", "null",
])
def test_a_damaged_file_is_asked_over_again(monkeypatch, asked, content):
  flags_set(monkeypatch)
  (path,) = (asked.folder / ".cache/diffai_jax").iterdir()
  about = next(iter(json.loads(path.read_text())))
  path.write_text(content.replace("{ABOUT}", json.dumps({about: "yes"})))
  asked.calls.clear()
  assert flags_set(monkeypatch) == flags_set(monkeypatch) == BOTH
  assert len(asked.calls) == 1


def test_where_nothing_can_be_written_it_is_asked_each_time(
    monkeypatch, asked
):
  (asked.folder / ".cache").write_text("not a folder")
  assert flags_set(monkeypatch) == flags_set(monkeypatch) == BOTH
  assert len(asked.calls) == 2


@pytest.mark.parametrize("error", [
    OSError("no processes"), subprocess.TimeoutExpired("python", 1),
])
def test_without_an_answer_nothing_is_set(monkeypatch, asked, error):

  def run(*_, **__):
    raise error

  monkeypatch.setattr(xla.subprocess, "run", run)
  assert not flags_set(monkeypatch)


@pytest.mark.parametrize("given, plugins, expected", [
    (None, (), True), (None, ("cuda",), False), ("cpu", ("cuda",), True),
    ("cuda,cpu", (), False), ("tpu", (), False),
])
def test_flags_are_for_cpus(monkeypatch, given, plugins, expected):
  """JAX is not asked for its devices: XLA would read its flags."""
  monkeypatch.setattr(
      xla.importlib.metadata, "entry_points", lambda group: plugins
  )
  monkeypatch.setattr(xla.importlib.util, "find_spec", lambda name: None)
  monkeypatch.setattr(
      xla, "jax",
      types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms=given)),
  )
  assert xla._is_for_cpus() == expected
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  monkeypatch.setattr(xla, "_known", list)
  xla.set_flags()
  assert ("XLA_FLAGS" in os.environ) == expected


_REAL = """
import os
from diffai_jax.kernels import platforms, xla
xla._FLAGS["xla_no_such_flag"] = "1"
xla.set_flags()
import jax.numpy as jnp
print(float(jnp.ones((9, 9)).sum()), xla.computes_anew())
print(os.environ["XLA_FLAGS"])
"""


def test_the_installed_xla_takes_what_is_set(tmp_path):
  """It would end the process at the sight of a flag that it does not know."""
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path),
      "PYTHONPATH": str(pathlib.Path(xla.__file__).parents[2]),
  }
  environment.pop("XLA_FLAGS", None)
  run = subprocess.run(
      [sys.executable, "-c", _REAL], capture_output=True, text=True,
      check=False, env=environment,
  )
  first, *rest = run.stdout.splitlines()
  assert (run.returncode, rest) == (0, [BOTH]), run.stderr
  assert first == "81.0 True"


def test_whether_stages_run_twice_is_seen_in_the_program(monkeypatch):
  options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
  assert xla.computes_anew(options)
  monkeypatch.setattr(xla.jax, "checkpoint", lambda stage: stage)
  assert not xla.computes_anew(options)


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


def test_a_program_is_compiled_with_what_xla_knows(monkeypatch):
  """Without flags, barriers stay as with them; what is unknown is left out."""
  monkeypatch.delenv("XLA_FLAGS", raising=False)
  lowered = jax.jit(lambda x: platforms.computed_once(x * 2) + 1).lower(1.0)
  known = dataclasses.replace(
      platforms.CPU, xla_flags=dict(platforms.CPU.xla_flags) | {"xla_none": "1"}
  )
  monkeypatch.setattr(platforms, "here", lambda: known)
  program = xla.compiled(lowered)
  assert "opt-barrier" in program.as_text()
  assert program(1.0) == 3


def test_what_cannot_be_compiled_with_options_is_compiled_without():
  """And what cannot be compiled at all says why."""

  class Lowered:
    """Fails with the options that this platform has."""

    def compile(self, options=None):
      given = options or {}
      if given.get("xla_disable_hlo_passes") or "always" in self.fails:
        raise jax.errors.JaxRuntimeError(f"UNIMPLEMENTED {given}")
      return "compiled"

  lowered = Lowered()
  lowered.fails = ()
  assert xla.compiled(lowered) == "compiled"
  lowered.fails = ("always",)
  with pytest.raises(jax.errors.JaxRuntimeError, match="UNIMPLEMENTED"):
    xla.compiled(lowered)
