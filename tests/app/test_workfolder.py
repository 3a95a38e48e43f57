"""The work folder belongs to one config, and nothing in it gets lost."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from diffai_jax.app import workfolder
from diffai_jax.storage import lock
from diffai_jax.app.config import base_config
from diffai_jax.training import checkpoints
from diffai_jax.types import UsageError


def _config(**values):
  config = base_config("digits")
  config.network = "FFNN"
  config.update_from_flattened_dict(
      {name.replace("__", "."): value for name, value in values.items()}
  )
  return config


def _files(folder: pathlib.Path) -> dict[str, tuple[bytes, int]]:
  """Content and time of the last change of every file."""
  return {
      path.name: (path.read_bytes(), path.stat().st_mtime_ns)
      for path in folder.iterdir()
  }


def test_no_folder_and_no_config_are_none(tmp_path):
  """A folder that is not there, or empty, belongs to nobody."""
  assert workfolder.read_config(str(tmp_path / "missing")) is None
  assert workfolder.read_config(str(tmp_path)) is None


def test_claim_makes_the_folder_and_writes_the_config(tmp_path):
  """The file is the config as JSON, and the only file."""
  workdir = tmp_path / "runs" / "first"
  config = _config(optimizer__milestones=(140, 180))
  workfolder.claim(str(workdir), config)
  assert [path.name for path in workdir.iterdir()] == ["config.json"]
  written = workfolder.read_config(str(workdir))
  assert written == json.loads(config.to_json())
  assert written["optimizer"]["milestones"] == [140, 180]


def test_the_same_config_may_claim_again(tmp_path):
  """Also with other tuples, lists and ints that mean the same."""
  workfolder.claim(str(tmp_path), _config(optimizer__milestones=(1, 2)))
  workfolder.claim(str(tmp_path), _config(optimizer__milestones=(1, 2)))


@pytest.mark.parametrize("values", [
    {"certify__examples": 5}, {"certify__methods": ("Box",)},
    {"certify__attack__steps": 1}, {"checkpoint_minutes": 1.0},
    {"data_dir": "elsewhere"},
])
def test_what_does_not_train_may_change(tmp_path, values):
  """Such keys may differ, and the file then holds the new values."""
  workfolder.claim(str(tmp_path), _config())
  config = _config(**values)
  workfolder.claim(str(tmp_path), config)
  assert workfolder.read_config(str(tmp_path)) == json.loads(config.to_json())


@pytest.mark.parametrize("values, text", [
    ({"epsilon": 0.3}, "epsilon (0.05, now 0.3)"),
    ({"goal": "Point"}, "goal (Baseline, now Point)"),
    ({"network": "ConvMed"}, "network (FFNN, now ConvMed)"),
    ({"seed": 7}, "seed (0, now 7)"),
    ({"batch_size": 10}, "batch_size (128, now 10)"),
    ({"epochs": 3.0}, "epochs (200.0, now 3.0); epochs can only be raised"),
    ({"checkpoint": "/other"}, "checkpoint (None, now /other)"),
    ({"schedule_epochs": 3.0}, "schedule_epochs (None, now 3.0)"),
    ({"optimizer__learning_rate": 0.5},
     "optimizer.learning_rate (0.001, now 0.5)"),
    ({"optimizer__milestones": (3,)}, "optimizer.milestones ([], now [3])"),
])
def test_another_runs_folder_is_refused_untouched(tmp_path, values, text):
  """The error names folder, key, old and new value; no file is touched."""
  workfolder.claim(str(tmp_path), _config())
  before = _files(tmp_path)
  with pytest.raises(UsageError) as caught:
    workfolder.claim(str(tmp_path), _config(**values))
  assert str(tmp_path) in str(caught.value)
  assert text in str(caught.value)
  assert "\n" not in str(caught.value)
  assert _files(tmp_path) == before


@pytest.mark.parametrize("content", ["", "{", "\0\0", "not json"])
def test_an_unreadable_config_is_named(tmp_path, content):
  """A broken file is an error in one line, and is not overwritten."""
  path = tmp_path / "config.json"
  path.write_text(content)
  for call in (
      lambda: workfolder.read_config(str(tmp_path)),
      lambda: workfolder.claim(str(tmp_path), _config()),
      lambda: workfolder.require_same_network(str(tmp_path), _config()),
  ):
    with pytest.raises(UsageError) as caught:
      call()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
  assert path.read_text() == content


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"'])
def test_json_that_is_no_config_is_named(tmp_path, content):
  """JSON of another kind is no config either."""
  path = tmp_path / "config.json"
  path.write_text(content)
  with pytest.raises(UsageError, match="config.json"):
    workfolder.claim(str(tmp_path), _config())
  assert path.read_text() == content


def test_a_file_in_the_folders_place_is_an_error(tmp_path):
  """--workdir that is a file: one line, and the file stays."""
  path = tmp_path / "file"
  path.write_text("mine")
  for workdir in (path, path / "below"):
    with pytest.raises(UsageError, match="cannot write to --workdir"):
      workfolder.claim(str(workdir), _config())
  assert path.read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
  """No permission: one line that says so."""
  def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(workfolder.os, "replace", refuse)
  with pytest.raises(UsageError, match="Permission denied"):
    workfolder.claim(str(tmp_path / "run"), _config())


def test_a_config_file_can_be_read_by_others(tmp_path):
  """It gets the usual permissions, not a temporary file's."""
  workfolder.claim(str(tmp_path), _config())
  mode = (tmp_path / "config.json").stat().st_mode
  assert mode & stat.S_IRUSR and mode & stat.S_IWUSR


def test_same_network_is_all_that_certifying_needs(tmp_path):
  """Another goal, ε or seed is fine; another network or dataset is not."""
  workfolder.claim(str(tmp_path), _config())
  before = _files(tmp_path)
  workfolder.require_same_network(
      str(tmp_path), _config(epsilon=0.3, goal="Point", seed=4)
  )
  with pytest.raises(UsageError, match=r"network \(FFNN, now ConvMed\)"):
    workfolder.require_same_network(str(tmp_path), _config(network="ConvMed"))
  with pytest.raises(UsageError, match=r"dataset \(digits, now mnist\)"):
    workfolder.require_same_network(str(tmp_path), _config(dataset="mnist"))
  assert _files(tmp_path) == before


def test_the_networks_case_does_not_matter(tmp_path):
  """FFNN and ffnn are one network, as everywhere."""
  workfolder.claim(str(tmp_path), _config())
  workfolder.require_same_network(str(tmp_path), _config(network="ffnn"))


def test_a_folder_without_a_run_says_so(tmp_path):
  """Nothing trained here: the error says how to."""
  with pytest.raises(UsageError, match="no trained network.*--mode=train"):
    workfolder.require_same_network(str(tmp_path), _config())


def _with_checkpoint(monkeypatch, config) -> None:
  """The folders have a checkpoint that holds this config."""
  stored = json.loads(config.to_json())
  monkeypatch.setattr(checkpoints, "stored_config", lambda workdir: stored)


def _damage(path: pathlib.Path, content: bytes | None):
  path.unlink()
  if content is not None:
    path.write_bytes(content)


@pytest.mark.parametrize("content", [
    None, b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"seed": 0}',
])
def test_the_copy_in_the_checkpoint_replaces_a_damaged_config(
    tmp_path, monkeypatch, capsys, content
):
  """The run goes on, with one line of warning, and the file is mended."""
  config = _config()
  workfolder.claim(str(tmp_path), config)
  _damage(tmp_path / "config.json", content)
  _with_checkpoint(monkeypatch, config)
  with pytest.raises(UsageError, match=r"seed \(0, now 7\)"):
    workfolder.claim(str(tmp_path), _config(seed=7))
  assert capsys.readouterr().err.count("\n") == 1
  workfolder.claim(str(tmp_path), config)
  assert capsys.readouterr().err.startswith("warning: ")
  assert workfolder.read_config(str(tmp_path)) == json.loads(config.to_json())
  assert capsys.readouterr().err == ""


@pytest.mark.parametrize("values", [{"seed": 1}, {"epochs": 300.0}])
def test_a_flipped_bit_in_the_config_is_noticed(
    tmp_path, monkeypatch, capsys, values
):
  """Another number than the run was trained with is never told as its own."""
  _with_checkpoint(monkeypatch, _config())
  (tmp_path / "config.json").write_text(_config(**values).to_json())
  found = workfolder.read_config(str(tmp_path))
  assert found == json.loads(_config().to_json())
  assert "is not the run's" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints/5/x"])
def test_a_run_whose_config_is_gone_is_adopted_by_none(tmp_path, name):
  """Without a config, nobody can say whose the files are."""
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("mine")
  with pytest.raises(UsageError, match="no config.json.*another --workdir"):
    workfolder.claim(str(tmp_path), _config())
  assert not (tmp_path / "config.json").exists()


def test_a_run_may_become_longer(tmp_path, capsys):
  """And remembers what its schedules were stretched to, however often."""
  first = workfolder.claim(str(tmp_path), _config(epochs=2.0))
  assert workfolder.first_epochs(first) == 2
  for epochs in (3.0, 3.0, 5.0):
    record = workfolder.claim(str(tmp_path), _config(epochs=epochs))
    assert (record["epochs"], workfolder.first_epochs(record)) == (epochs, 2)
  assert "first_epochs" not in workfolder.read_config(str(tmp_path))
  with pytest.raises(UsageError, match=r"epochs \(5.0, now 3.0\).*be raised"):
    workfolder.claim(str(tmp_path), _config(epochs=3.0))
  assert capsys.readouterr().err == ""


def test_a_start_is_kept_once_it_is_given(tmp_path):
  """A run that began with other weights goes on without naming them again."""
  workfolder.claim(str(tmp_path), _config(checkpoint="/a"))
  workfolder.claim(str(tmp_path), _config(checkpoint="/a"))
  assert workfolder.claim(str(tmp_path), _config())["checkpoint"] == "/a"
  with pytest.raises(UsageError, match=r"checkpoint \(/a, now /b\)"):
    workfolder.claim(str(tmp_path), _config(checkpoint="/b"))


def test_what_kills_left_is_removed(tmp_path):
  """Half-written files and checkpoints, Orbax's too; all else stays."""
  workfolder.claim(str(tmp_path), _config())
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  for name in ("7.tmp", "7.orbax-checkpoint-tmp-1", "9.old.tmp"):
    (tmp_path / "checkpoints" / name / "arrays").mkdir(parents=True)
  for name in ("report.html.12.tmp", "notes.txt"):
    (tmp_path / name).write_text("")
  workfolder.claim(str(tmp_path), _config())
  found = {path.name for path in tmp_path.rglob("*")}
  assert found == {"config.json", "checkpoints", "5", "notes.txt"}


_HOLD = """
import sys
from diffai_jax.app import workfolder
with workfolder.held(sys.argv[1]):
  print("held", flush=True)
  sys.stdin.read()
"""


def test_one_process_works_in_a_folder(tmp_path):
  """Another one is told which; a killed one's folder is free."""
  holder = subprocess.Popen(
      [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, text=True,
  )
  with holder:
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match=f"in use by process {holder.pid} "):
      with workfolder.held(str(tmp_path)):
        pass
    holder.kill()
  with workfolder.held(str(tmp_path)):
    assert f"process {os.getpid()}" in (tmp_path / lock.FILE).read_text()
  assert not list(tmp_path.iterdir())


def test_holding_makes_the_folder_or_says_why_not(tmp_path):
  """A file where a folder should be: one line."""
  with workfolder.held(str(tmp_path / "new" / "run")):
    assert (tmp_path / "new" / "run").is_dir()
  (tmp_path / "file").write_text("mine")
  for name in ("file", "file/run"):
    with pytest.raises(UsageError, match="cannot write to --workdir.*file"):
      with workfolder.held(str(tmp_path / name)):
        pass
  assert (tmp_path / "file").read_text() == "mine"
