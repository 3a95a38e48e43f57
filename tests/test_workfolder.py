"""The work folder belongs to one config, and nothing in it gets lost."""

import json
import pathlib
import stat

import pytest

from diffai_jax import workfolder
from diffai_jax.config import base_config
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
    {"certify__examples": 5}, {"certify__domains": ("Box",)},
    {"certify__attack__steps": 1}, {"checkpoint_minutes": 1.0},
    {"data_dir": "elsewhere"}, {"checkpoint": "elsewhere"},
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
    ({"epochs": 3.0}, "epochs (200.0, now 3.0)"),
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
