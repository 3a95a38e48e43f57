"""A whole run in an object store: trained, resumed, certified, reported."""

import collections
import functools
import json
from unittest import mock

from etils.epath import backend, gpath
import fake_bucket
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax.app import config as config_room
from diffai_jax.app import report
from diffai_jax.app.certify_run import certify_checkpoint
from diffai_jax.app.train import train_and_certify
from diffai_jax.networks import NETWORKS, ffnn
from diffai_jax.storage import lines, store
from diffai_jax.training import checkpoints, metrics, saving
from diffai_jax.types import UsageError

_FOLDER = "gs://bucket/runs/lr=0.1"


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  """A network that compiles in no time, by the name of Tiny."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NETWORKS, "Tiny", functools.partial(ffnn, hidden=(8,)))
    yield


@pytest.fixture
def bucket(tmp_path):
  with fake_bucket.mounted(tmp_path / "bucket") as mounted:
    yield mounted


def _data():
  rng = np.random.default_rng(0)
  images = rng.random((40, 4)).astype("f")
  return images, (images[:, 0] > images[:, 1]).astype(np.int32)


def _train(workdir, epochs):
  network = dj.nn.Sequential([dj.nn.Linear(4), dj.nn.ReLU(), dj.nn.Linear(2)])
  return dj.train(
      network, _data(), goal="Mix(Point, Box, 0.5)", epsilon=0.02,
      learning_rate=0.05, batch_size=20, epochs=epochs, workdir=workdir,
      checkpoint_minutes=0, progress=False, schedule_epochs=3,
  )


def test_a_run_from_python_is_the_same_in_a_bucket(bucket, tmp_path):
  """Weights, metrics and files are those of a local work folder."""
  _train(_FOLDER, 1)
  there = _train(_FOLDER, 3)
  _train(str(tmp_path / "local"), 1)
  here = _train(str(tmp_path / "local"), 3)
  for name in ("layers_0", "layers_2"):
    np.testing.assert_array_equal(
        there.variables["params"][name]["kernel"],
        here.variables["params"][name]["kernel"],
    )
  assert [row["step"] for row in there.metrics] == [2, 4, 6]
  inside = bucket.folder / "runs" / "lr=0.1"

  def names(folder):
    return sorted(
        path.name for path in folder.iterdir() if "tfevents" not in path.name
    )

  assert names(inside) == names(tmp_path / "local")
  assert names(inside / "checkpoints") == names(tmp_path / "local/checkpoints")
  events = [p for p in inside.iterdir() if "tfevents" in p.name]
  assert len(events) == 2 and all(p.stat().st_size > 100 for p in events)
  again = dj.load(_FOLDER)
  assert again.step == 6 and again.metrics == there.metrics
  found = dj.certify(again, *_data(), dj.Linf(0.02), methods=["Box"])
  assert set(found.verified) == {"Box"}
  # A checkpoint counts once its JSON is there, which is written last.
  six = [w for w in bucket.writes if "/checkpoints/6/" in w]
  assert six[-1].endswith("/6/checkpoint.json")


def _config(epochs):
  config = config_room.base_config("digits,0.02")
  config.network, config.goal = "Tiny", "Mix(Point, Box, 0.3)"
  config.epochs, config.batch_size = epochs, 500
  config.schedule_epochs, config.checkpoint_minutes = 2.0, 0.0
  config.certify.examples = 6
  config.certify.methods = ("Box",)
  config.certify.attack.steps = 1
  return config


def test_a_run_of_the_command(bucket, capsys):
  """Trained, made longer, certified with another radius, reported."""
  train_and_certify(_config(1.0), _FOLDER)
  first = json.loads((bucket.folder / "runs/lr=0.1/certification.json").read_text())
  assert first["examples"] == 6 and first["step"] == 2
  train_and_certify(_config(2.0), _FOLDER)
  assert "going on from step 2 of 4" in capsys.readouterr().out
  # The earlier one was set aside.
  inside = bucket.folder / "runs/lr=0.1"
  (aside,) = (inside / "certifications").iterdir()
  assert aside.name.startswith("step_2_")
  config = _config(2.0)
  config.epsilon = 0.01
  certify_checkpoint(config, _FOLDER)
  assert {p.name for p in (inside / "certifications").iterdir()} == {
      aside.name, "epsilon_0.01"
  }
  assert not list(inside.rglob("certification.blocks*"))
  certify_checkpoint(config, _FOLDER)
  assert "has this certification already" in capsys.readouterr().out
  path = report.write(_FOLDER)
  assert path == f"{_FOLDER}/report.html"
  page = (inside / "report.html").read_text()
  assert "epsilon_0.01" in page and aside.name in page
  report.print_results(_FOLDER)
  assert f"{_FOLDER}/certification.json" in capsys.readouterr().out
  steps = checkpoints.steps_of(f"{_FOLDER}/checkpoints")
  assert [path.rpartition("/")[2] for path in steps] == ["4", "3"]
  # Begun with its weights, in another work folder.
  other = _config(1.0)
  other.checkpoint = _FOLDER
  train_and_certify(other, "gs://bucket/other")
  assert f"beginning with the weights of {_FOLDER}" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on(bucket):
  """What it left is no checkpoint, and its lines are there up to the last one."""
  whole = _train("gs://bucket/whole", 3)
  _train(_FOLDER, 2)
  inside = bucket.folder / "runs/lr=0.1/checkpoints"
  # As if killed before the last was confirmed, after all else was written.
  (inside / "4" / "checkpoint.json").rename(
      inside / "4" / "checkpoint.waiting.json"
  )
  there = checkpoints.steps_of(f"{_FOLDER}/checkpoints")
  assert there == [f"{_FOLDER}/checkpoints/3"]
  again = _train(_FOLDER, 3)
  np.testing.assert_array_equal(
      again.variables["params"]["layers_0"]["kernel"],
      whole.variables["params"]["layers_0"]["kernel"],
  )
  assert [row["step"] for row in again.metrics] == [2, 4, 6]
  assert again.metrics[0] == whole.metrics[0] | {
      "examples_per_second": again.metrics[0]["examples_per_second"]
  }
  assert not list(inside.rglob("*waiting*"))


def test_lines_are_there_when_a_checkpoint_is(bucket, monkeypatch):
  """A kill after a checkpoint loses no line of the steps before it."""
  monkeypatch.setattr(lines, "_SECONDS_BETWEEN_UPLOADS", 1e9)
  state = collections.namedtuple("State", "step")
  told = []
  keeper = checkpoints.Keeper(_FOLDER, {})
  keeper.write = lambda state: None
  keeper.confirm = lambda step: told.append(
      [step, *(row["step"] for row in metrics.read(_FOLDER))]
  )
  with (
      metrics.MetricsWriter(_FOLDER, 1) as writer,
      saving.Saver(keeper, 1, print) as saver,
  ):
    saver.before_confirm = writer.flush
    for step in (1, 2, 3):
      writer.write(step, {"loss": 0.5})
      if step > 1:
        saver.write(state(np.int32(step)))
        saver.confirm(step)
        saver.finish()
  assert told == [[2, 1, 2], [3, 1, 2, 3]]


def test_a_run_asks_for_its_lines_before_checkpoints(bucket, monkeypatch):
  asked = []
  monkeypatch.setattr(
      metrics.MetricsWriter, "flush", lambda writer: asked.append(writer)
  )
  _train(_FOLDER, 1)
  assert asked


def test_a_store_that_fails_is_one_line(bucket):
  class HttpError(Exception):
    pass

  bucket.broken = HttpError("403: no access to bucket\nand more")
  for call in (lambda: _train(_FOLDER, 1), lambda: dj.load(_FOLDER),
               lambda: report.write(_FOLDER)):
    with pytest.raises(UsageError, match="403: no access to bucket") as error:
      call()
    assert "\n" not in str(error.value) and _FOLDER in str(error.value)


def test_a_missing_package_is_one_line():
  """As it is where gcsfs is not installed."""
  with pytest.raises(UsageError) as error:
    _no_gcsfs(lambda: dj.load("gs://bucket/run"))
  assert str(error.value).endswith(
      "gs:// needs gcsfs; pip install 'diffai_jax[gcs]'"
  )


def _no_gcsfs(call):
  class Missing(backend._FileSystemSpecBackend):
    def fs(self, path):
      raise ImportError("Please install gcsfs to access Google Storage")

  with mock.patch.dict(gpath._PREFIX_TO_BACKEND, {"gs": Missing()}):
    return call()


def test_nothing_is_made_here(bucket, tmp_path, monkeypatch):
  """No folder "gs:" appears where the command runs."""
  monkeypatch.chdir(tmp_path)
  _train(_FOLDER, 1)
  assert [p.name for p in tmp_path.iterdir()] == ["bucket"]
  assert store.names_in("gs://bucket") == ["runs"]
