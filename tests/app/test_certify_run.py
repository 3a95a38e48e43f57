"""Certifications of a work folder, end to end: side by side, killed, damaged."""

import functools
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest

from diffai_jax.app import certify_run, report, train
from diffai_jax.app.run import load
from diffai_jax.storage import journal, sealed
from diffai_jax.verification import certification, measuring, programs
from diffai_jax.app.config import base_config
from diffai_jax.networks import NETWORKS, certified_network, ffnn
from diffai_jax.regions import Linf
from diffai_jax.types import UsageError

_RESULTS = ("certification.json", "certification.npz", "network.npz")


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NETWORKS, "Tiny", functools.partial(ffnn, hidden=(9, 7)))
    yield


def _config(**values):
  config = base_config("digits")
  config.network = "Tiny"
  config.goal = "Point"
  config.epochs = 1.0
  config.optimizer.learning_rate = 0.05
  config.batch_size = 220
  config.certify.methods = ("Box", "HBox")
  config.certify.examples = 12
  config.certify.skip_decided = False
  config.certify.attack.steps = 2
  config.update_from_flattened_dict(
      {name.replace("__", "."): value for name, value in values.items()}
  )
  return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A work folder of a whole run. Tests must not change it."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  train.train_and_certify(_config(), str(workdir))
  return workdir


@pytest.fixture(scope="module")
def never_killed(finished, tmp_path_factory) -> pathlib.Path:
  """A certification at another radius; the folder."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  shutil.copytree(finished, workdir)
  _certify(workdir, epsilon=0.03)
  return workdir / "certifications" / "epsilon_0.03"


@pytest.fixture
def workdir(finished, tmp_path) -> pathlib.Path:
  """A copy of it."""
  return pathlib.Path(shutil.copytree(finished, tmp_path / "run"))


def _certify(workdir, **values):
  certify_run.certify_checkpoint(_config(**values), str(workdir))


def _content(folder) -> dict[str, bytes]:
  return {name: (folder / name).read_bytes() for name in _RESULTS}


def _assert_same_results(folder, other):
  """All numbers, bit for bit; not the seconds."""
  one, two = (certification.load_summary(str(f)) for f in (folder, other))
  for summary in (one, two):
    for key in ("seconds", "files"):
      summary.pop(key)
  assert one == two
  for load in (certification.load_arrays, certification.load_network):
    left, right = load(str(folder)), load(str(other))
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right)):
      assert a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _forbidden(*args, **kwargs):
  raise AssertionError("nothing was to be measured")


def test_each_says_what_it_is(finished):
  summary = certification.load_summary(str(finished))
  assert summary.items() >= {
      "epsilon": 0.05, "split": "test", "examples": 12, "step": 6,
      "methods": ["Box", "HBox"], "network": "Tiny", "dataset": "digits",
      "source": os.path.join("checkpoints", "6"), "skip_decided": False,
      "arithmetic": "float32 on cpu", "failed": {},
      "attack": {"steps": 2, "momentum": 0.8, "radius": 2.0},
  }.items()
  assert not (finished / "certification.blocks").exists()


def test_certifications_live_side_by_side(workdir, capsys):
  """None is written over another, and the page names each."""
  before = _content(workdir)
  _certify(workdir, epsilon=0.01, certify__split="train")
  _certify(workdir, certify__methods=("Box",))
  assert _content(workdir) == before
  folders = workdir / "certifications"
  names = {"epsilon_0.01_split_train", "methods_Box"}
  assert {path.name for path in folders.iterdir()} == names
  first = certification.load_summary(str(folders / "epsilon_0.01_split_train"))
  assert (first["epsilon"], first["split"]) == (0.01, "train")
  page = (workdir / "report.html").read_text()
  capsys.readouterr()
  report.print_results(str(workdir))
  out = capsys.readouterr().out
  for text in (page, out):
    for what in (
        "epsilon 0.05, 12 examples of test, step 6, Box and HBox",
        "epsilon 0.01, 12 examples of train, step 6, Box and HBox"
        " (certifications/epsilon_0.01_split_train)",
        "epsilon 0.05, 12 examples of test, step 6, Box"
        " (certifications/methods_Box)",
    ):
      assert what in text
  again = _content(folders / "methods_Box")
  _certify(workdir, certify__methods=("Box",), epsilon=0.02)
  assert _content(folders / "methods_Box") == again


def test_the_same_again_is_there_already(workdir, monkeypatch, capsys):
  _certify(workdir, epsilon=0.01)
  monkeypatch.setattr(certification, "certify", _forbidden)
  _certify(workdir)
  _certify(workdir, epsilon=0.01)
  assert "already" in capsys.readouterr().out


def _as_before(workdir):
  """The files as a version wrote them that called methods domains.

  And had MI-FGSM alone.
  """
  path = workdir / "config.json"
  config = json.loads(path.read_text())
  config["certify"]["domains"] = config["certify"].pop("methods")
  del config["certify"]["attacks"]
  path.write_text(json.dumps(config))
  path = workdir / "certification.json"
  summary = json.loads(path.read_text())
  del summary["sha256"]
  summary["domains"] = summary.pop("methods")
  del summary["attacks"]
  summary["sha256"] = sealed.digest_of(summary)
  path.write_text(json.dumps(summary))


def test_a_folder_that_calls_methods_domains_goes_on(
    workdir, monkeypatch, capsys
):
  """It is loaded, reported, not certified twice, and resumed."""
  _as_before(workdir)
  run = load(str(workdir))
  assert list(run.config.certify.methods) == ["Box", "HBox"]
  assert run.certifications["own"]["methods"] == ["Box", "HBox"]
  report.write(str(workdir))
  assert "step 6, Box and HBox" in (workdir / "report.html").read_text()
  with monkeypatch.context() as patch:
    patch.setattr(certification, "certify", _forbidden)
    _certify(workdir)
    assert "already" in capsys.readouterr().out
  train.train_and_certify(_config(epochs=2.0), str(workdir))
  summary = certification.load_summary(str(workdir))
  assert (summary["step"], summary["methods"]) == (12, ["Box", "HBox"])
  written = json.loads((workdir / "config.json").read_text())["certify"]
  assert written["methods"] == ["Box", "HBox"] and "domains" not in written


def test_several_attacks_have_a_place_and_rows_of_their_own(workdir, capsys):
  """MIFGSM is what the keys of certify.attack say, and each has its seconds."""
  before = _content(workdir)
  attacks = ("MIFGSM", "APGD(3)")
  _certify(workdir, certify__attacks=attacks, certify__methods=("Box",))
  assert _content(workdir) == before
  (folder,) = (workdir / "certifications").iterdir()
  assert folder.name.startswith("methods_Box_attacks_MIFGSM-APGD-3-")
  summary = certification.load_summary(str(folder))
  names = ["MIFGSM(2, 1)", "APGD(3)"]
  assert summary["attacks_in_turn"] == list(summary["attacks"]) == names
  assert set(summary["seconds"]) == {
      "standard", "attack", "Box", *(f"attack {name}" for name in names)
  }
  arrays = certification.load_arrays(str(folder))
  for name in names:
    assert arrays[f"broken_{name}"].sum() == summary["attacks"][name]["broken"]
  out = capsys.readouterr().out
  for name in names:
    assert f"correct after {name}" in out
  page = (workdir / "report.html").read_text()
  assert "Attacks: MIFGSM(2, 1), APGD(3)" in page
  assert "Attack: MI-FGSM, 2 steps, momentum 0.8" in page
  _certify(workdir, certify__attacks=("MIFGSM(2, 1)", "APGD(3)"),
           certify__methods=("Box",))
  assert len(list((workdir / "certifications").iterdir())) == 2


def test_a_run_that_trained_on_keeps_the_results_before(workdir):
  """The top is always of the run's own state; the others have their step."""
  before = _content(workdir)
  train.train_and_certify(_config(certify__examples=5), str(workdir))
  assert certification.load_summary(str(workdir))["examples"] == 5
  (aside,) = (workdir / "certifications").iterdir()
  assert aside.name.startswith("step_6_epsilon_0.05_")
  assert _content(aside) == before


def test_another_runs_checkpoint_is_refused(workdir, finished):
  """The run's own, by any of its paths, is not."""
  files = sorted(workdir.rglob("*"))
  with pytest.raises(UsageError, match="belongs to another run"):
    _certify(workdir, checkpoint=str(finished))
  assert sorted(workdir.rglob("*")) == files
  for own in ("", "checkpoints", "checkpoints/6"):
    _certify(workdir, checkpoint=str(workdir / own))
  assert not (workdir / "certifications").exists()
  with pytest.raises(UsageError, match="5 is no folder"):
    _certify(workdir, checkpoint=str(workdir / "checkpoints" / "5"))


def test_a_new_folder_may_certify_another_runs_checkpoint(tmp_path, finished):
  """Then it is that one's, and says so."""
  workdir = tmp_path / "new"
  for epsilon in (0.05, 0.02):
    _certify(workdir, checkpoint=str(finished), epsilon=epsilon)
  summary = certification.load_summary(str(workdir))
  assert summary["source"] == str(finished / "checkpoints" / "6")
  assert (workdir / "certifications" / "epsilon_0.02").is_dir()


def test_the_saved_network_gives_the_same_margins(finished):
  job = train.Job.from_config(_config())
  network = certified_network(job.network, job.dataset.image_shape)
  again = certification.certify(
      network, certification.load_network(str(finished)),
      certify_run.test_data(job.config), Linf(0.05),
      attack=certification.Attack(steps=2),
  )
  arrays = certification.load_arrays(str(finished))
  for domain in ("Box", "HBox"):
    np.testing.assert_array_equal(
        arrays[f"margin_{domain}"], again.margins[domain]
    )


@pytest.mark.parametrize("after", [1, 5, 8])
def test_killed_anywhere_it_goes_on(workdir, never_killed, monkeypatch, after):
  """After some blocks, or while results are saved."""

  class Killed(BaseException):
    pass

  blocks = []
  append = journal.Journal.append

  def killing(self, *args):
    if len(blocks) == after:
      raise Killed
    append(self, *args)
    blocks.append((args[0], tuple(args[2])))

  with monkeypatch.context() as patch:
    patch.setattr(journal.Journal, "append", killing)
    patch.setattr(certification.sealed.files, "write_json", _raising(Killed))
    with pytest.raises(Killed):
      _certify(workdir, epsilon=0.03)
  measured = []
  with monkeypatch.context() as patch:
    patch.setattr(journal.Journal, "append", lambda self, *args: (
        measured.append((args[0], tuple(args[2]))), append(self, *args)
    ))
    _certify(workdir, epsilon=0.03)
  assert len(blocks) == after and not set(blocks) & set(measured)
  _assert_same_results(
      workdir / "certifications" / "epsilon_0.03", never_killed
  )


def _raising(error):
  def function(*args, **kwargs):
    raise error

  return function


def test_a_method_that_fails_does_not_take_the_others(workdir, monkeypatch):
  """The results of the others are there; asked again, it alone is measured."""
  compile_measure = measuring.compile_measure

  def failing(phase, *args):
    if phase == "HBox":
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GB")
    return compile_measure(phase, *args)

  with monkeypatch.context() as patch:
    patch.setattr(measuring, "compile_measure", failing)
    with pytest.raises(UsageError, match="HBox gave no results: .*EXHAUSTED"):
      _certify(workdir, epsilon=0.2)
  (folder,) = (workdir / "certifications").iterdir()
  summary = certification.load_summary(str(folder))
  assert set(summary["failed"]) == {"HBox"}
  assert set(summary["verified_accuracy"]) == {"Box"}
  assert "RESOURCE_EXHAUSTED" in (workdir / "report.html").read_text()
  compiled = []
  monkeypatch.setattr(measuring, "compile_measure", lambda phase, *args: (
      compiled.append(phase), compile_measure(phase, *args)
  )[1])
  _certify(workdir, epsilon=0.2)
  assert compiled == ["HBox"]
  assert set(certification.load_summary(str(folder))["verified_accuracy"]) == {
      "Box", "HBox",
  }


@pytest.mark.parametrize("name, damage", [
    ("certification.json", "flip"), ("certification.json", "gone"),
    ("certification.json", "folder"), ("certification.npz", "zeros"),
    ("certification.npz", "folder"), ("network.npz", "cut"),
])
def test_damaged_results_are_made_again_or_one_line(
    workdir, finished, name, damage
):
  """Never a traceback, never other numbers."""
  path = workdir / name
  content = path.read_bytes()
  path.unlink()
  if damage == "folder":
    path.mkdir()
  elif damage != "gone":
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4])
    path.write_bytes({
        "cut": content[:middle], "zeros": bytes(len(content)),
        "flip": flipped + content[middle + 1 :],
    }[damage])
  report.write(str(workdir))
  if (name, damage) == ("certification.json", "gone"):
    report.print_results(str(workdir))  # No certification is no damage.
  else:
    with pytest.raises(UsageError, match=name) as caught:
      report.print_results(str(workdir))
    assert "\n" not in str(caught.value)
  if damage == "folder":
    with pytest.raises(UsageError, match=f"{name} is a folder"):
      _certify(workdir)
  else:
    _certify(workdir)
    _assert_same_results(workdir, finished)
    report.print_results(str(workdir))


@pytest.mark.parametrize("damage", ["cut", "flip", "folder"])
def test_damaged_blocks_are_measured_again(workdir, finished, damage):
  for name in _RESULTS:
    (workdir / name).unlink()
  path = workdir / "certification.blocks"
  path.write_bytes(b"0" * 64 + b" {}\n")
  if damage == "folder":
    path.unlink()
    path.mkdir()
    with pytest.raises(UsageError, match="certification.blocks is a folder"):
      _certify(workdir)
    return
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(certification, "save", _raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
      _certify(workdir)
  content = path.read_bytes()
  middle = len(content) // 2
  flipped = content[:middle] + bytes([content[middle] ^ 4])
  path.write_bytes({
      "cut": content[:middle],
      "flip": flipped + content[middle + 1 :],
  }[damage])
  _certify(workdir)
  _assert_same_results(workdir, finished)
  assert not path.exists()


def test_a_file_where_the_folders_belong_is_one_line(workdir):
  (workdir / "certifications").write_text("")
  with pytest.raises(UsageError, match="certifications") as caught:
    _certify(workdir, epsilon=0.03)
  assert "\n" not in str(caught.value)


def test_memory_is_asked_before_training(tmp_path, monkeypatch):
  """In one line that names the domain; nothing is trained or written."""
  monkeypatch.setattr(programs, "_needed_mb", lambda program: 1033.0)
  monkeypatch.setattr(programs.memory, "peak", lambda program: 10**9)
  monkeypatch.setattr(train, "_train", _forbidden)
  with pytest.raises(UsageError, match="HBox needs 1033 MiB for one example"):
    train.train_and_certify(
        _config(certify__memory_mb=1024, certify__methods=("HBox",)),
        str(tmp_path / "run"),
    )
  assert not (tmp_path / "run").exists()


def test_memory_that_is_plenty_compiles_nothing(monkeypatch):
  monkeypatch.setattr(programs, "_compiled", _forbidden)
  certify_run.check_memory(train.Job.from_config(_config()))


def test_config_may_leave_the_budget_to_the_machine():
  assert _config().certify.memory_mb is None
  assert json.loads(_config().to_json())["certify"]["memory_mb"] is None
