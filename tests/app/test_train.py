"""Training and certification end to end, on digits, in tiny runs."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from watched import watched
from weights import layers

from diffai_jax.app import certify_run, config_dict, interrupts, job, train
from diffai_jax.app.config import base_config
from diffai_jax.data import load
from diffai_jax.domains import Product
from diffai_jax.networks import NETWORKS, describe, ffnn
from diffai_jax.training import checkpoints, loop, metrics, optimizers
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import UsageError

_BATCH = 220
_STEPS = 6  # Of an epoch of 1,437 training images.
_HIDDEN = (12, 8)


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  """A network that compiles in no time, by the name of Tiny."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(
        NETWORKS, "Tiny", functools.partial(ffnn, hidden=_HIDDEN)
    )
    yield


def _config(**values):
  """A tiny run; `values` are keys, with __ for the dot."""
  config = base_config("digits")
  config.network = "Tiny"
  config.goal = "Mix(Point, Sub(Lin(0, 1, 1), Box), Lin(0, 0.5, 1))"
  config.epochs = 2.0
  config.batch_size = _BATCH
  config.optimizer.learning_rate = 0.02
  config.certify.methods = ("Box", "HBox")
  config.certify.examples = 30
  config.certify.attack.steps = 2
  config.update_from_flattened_dict(
      {name.replace("__", "."): value for name, value in values.items()}
  )
  return config


@pytest.fixture
def no_certification(monkeypatch):
  """For tests of the training loop alone."""
  monkeypatch.setattr(certify_run, "certify_state", lambda *args: None)
  monkeypatch.setattr(certify_run, "check_memory", lambda job: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """A work folder of a whole run. Tests must not change it."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  train.train_and_certify(_config(), str(workdir))
  return workdir


@pytest.mark.parametrize("remat, anew, expected", [
    (True, False, 1), (True, True, 0), (False, False, 0),
])
def test_remat_without_effect_is_told_in_one_line(
    monkeypatch, capsys, remat, anew, expected
):
  monkeypatch.setattr(train.xla, "computes_anew", lambda: anew)
  made = job.Job.from_config(_config(remat=remat))
  data = np.zeros(_BATCH)
  about = describe(made.network, made.dataset.image_shape)
  train._print_plan(made, about, data, data, "folder")
  warnings = capsys.readouterr().err.splitlines()
  found = [line for line in warnings if "remat will save no memory" in line]
  assert len(found) == len(warnings) == expected


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob("*")) if path.is_file()
  }


def _state(config, workdir) -> TrainState:
  """The state in the latest checkpoint of a work folder."""
  made = train.Job.from_config(config)
  like = _like(made.network, config.optimizer.to_json())
  paths = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  found = checkpoints.restore(paths, like)
  return found and found.state


@functools.cache
def _like(network, optimizer: str) -> TrainState:
  """Some state of a network and an optimiser, for its shapes."""
  made = optimizers.create(
      config_dict.ConfigDict(json.loads(optimizer)), lambda step: step
  )
  return create_state(network, made, (8, 8, 1), seed=0)


def _bits(state: TrainState) -> list[bytes]:
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


class _Killed(BaseException):
  """Ends a run as a signal would: no handler of errors may catch it."""


def _kill_after(monkeypatch, steps: int) -> None:
  """The next runs die when they have taken this many steps of their own."""
  make_step = job.make_step
  taken = []

  def killing(*args, **kwargs):
    step = make_step(*args, **kwargs)

    def counted(*values):
      taken.append(1)
      if len(taken) > steps:
        raise _Killed
      return step(*values)

    return counted

  monkeypatch.setattr(job, "make_step", killing)


def test_a_run_leaves_its_files(finished):
  """Every file of the work folder is there, and nothing half-written."""
  names = {path.name for path in finished.iterdir()}
  events = {name for name in names if name.startswith("events.out.tfevents")}
  assert len(events) == 1
  assert names - events == {
      "config.json", "metrics.jsonl", "checkpoints", "certification.json",
      "certification.npz", "network.npz", "report.html",
  }
  config = json.loads((finished / "config.json").read_text())
  assert config == json.loads(_config().to_json())
  assert (finished / "checkpoints" / str(2 * _STEPS)).is_dir()


def test_metrics_end_with_the_last_step(finished):
  """The last line is the last step's, with every value a finite number."""
  last = metrics.read(str(finished))[-1]
  assert last["step"] == 2 * _STEPS
  assert last["epoch"] == 2.0
  assert {"loss", "accuracy", "verified", "epsilon", "largest_bound",
          "gradient_norm", "examples_per_second"} <= set(last)
  assert all(math.isfinite(value) for value in last.values())
  assert last["epsilon"] == pytest.approx(0.05, rel=1e-4)


def test_certification_is_consistent(finished):
  """The JSON's accuracies are those of the arrays and of the data."""
  summary = json.loads((finished / "certification.json").read_text())
  with np.load(finished / "certification.npz") as file:
    arrays = dict(file)
  broken = arrays.pop("counterexample_index")
  points = arrays.pop("counterexample_image")
  domains = {"Box", "HBox"}
  assert set(summary) >= {
      "network", "dataset", "epsilon", "examples", "standard_accuracy",
      "attacked_accuracy", "verified_accuracy", "seconds",
  }
  broken_by = arrays.pop("broken_MIFGSM(2, 1)")
  np.testing.assert_array_equal(
      broken_by, ~arrays["attacked_correct"]
      & (arrays["prediction"] == arrays["label"]),
  )
  assert set(arrays) == {"index", "label", "prediction", "attacked_correct"} | {
      f"{kind}_{domain}" for kind in ("verified", "margin")
      for domain in domains
  }
  assert (summary["network"], summary["dataset"]) == ("Tiny", "digits")
  assert summary["epsilon"] == 0.05
  assert summary["examples"] == 30
  assert set(summary["verified_accuracy"]) == domains
  assert set(summary["seconds"]) == {"standard", "attack"} | domains
  assert all(len(values) == 30 for values in arrays.values())

  np.testing.assert_array_equal(arrays["index"], np.arange(30))
  np.testing.assert_array_equal(
      arrays["label"], load("digits", "test").labels[:30]
  )
  correct = arrays["prediction"] == arrays["label"]
  assert summary["standard_accuracy"] == pytest.approx(correct.mean())
  assert 0.2 < correct.mean()  # It did learn.
  attacked = arrays["attacked_correct"]
  assert summary["attacked_accuracy"] == pytest.approx(attacked.mean())
  assert not np.any(attacked & ~correct)
  # A point for each image that is broken, which is not proved by any domain.
  assert points.shape == (len(broken), 8, 8, 1)
  assert not np.any(attacked[broken])
  for domain in domains:
    verified = arrays[f"verified_{domain}"]
    assert summary["verified_accuracy"][domain] == pytest.approx(
        verified.mean()
    )
    np.testing.assert_array_equal(
        verified, correct & (arrays[f"margin_{domain}"] > 0)
    )
    assert not np.any(verified & ~attacked)


def test_certified_predictions_are_the_checkpoints(finished):
  """The saved weights, run in NumPy, predict what the arrays say."""
  params = jax.tree.map(np.asarray, _state(_config(), finished).params)
  images = load("digits", "test").images[:30]
  value = (images.reshape(30, 64).astype(np.float64) / 255 - 0.3053) / 0.3760
  for index in range(3):
    layer = layers(params)[index]
    value = value @ layer["kernel"] + layer["bias"]
    value = np.maximum(value, 0) if index < 2 else value
  with np.load(finished / "certification.npz") as arrays:
    np.testing.assert_array_equal(arrays["prediction"], value.argmax(axis=1))


@dataclasses.dataclass(frozen=True)
class _Resumed:
  """A run that was killed and started again.

  Attributes:
    workdir: its folder.
    saved: the step of the checkpoint that the kill left.
    traces: how often the network was traced for the training step, in the
      first process and in the second.
  """

  workdir: pathlib.Path
  saved: int
  traces: tuple[int, int]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> _Resumed:
  """The same run as `finished`, killed after the first step of epoch 2."""
  workdir = tmp_path_factory.mktemp("resumed")
  config = _config(checkpoint_minutes=0.0)
  traces = []

  def counting(*args, **options):
    return watched(
        ffnn(*args, **options, hidden=_HIDDEN),
        lambda x, mode: traces.append(isinstance(x, Product)),
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(certify_run, "certify_state", lambda *args: None)
    patch.setitem(NETWORKS, "Tiny", counting)
    with patch.context() as kill, pytest.raises(_Killed):
      kill.setattr(loop.platforms, "queued_dispatches", lambda: 0)
      _kill_after(kill, _STEPS + 2)
      train.train_and_certify(config, str(workdir))
    first = sum(traces)
    saved = int(_state(config, workdir).step)
    traces.clear()
    train.train_and_certify(config, str(workdir))
    return _Resumed(workdir, saved, (first, sum(traces)))


def test_a_killed_run_goes_on_bit_by_bit(finished, resumed):
  """Killed and started again, it ends with the same bits, and no step twice."""
  config = _config()
  assert resumed.saved == _STEPS + 1
  assert _bits(_state(config, resumed.workdir)) == _bits(
      _state(config, finished)
  )
  taken = [row["step"] for row in metrics.read(str(resumed.workdir))]
  assert taken == sorted(set(taken))


def test_a_run_compiles_its_step_once(resumed):
  """Neither the first step nor a restored state makes a second program."""
  assert resumed.traces == (1, 1)


def test_a_finished_run_is_not_trained_again(
    tmp_path, monkeypatch, finished, no_certification
):
  """The same command takes no further step."""
  workdir = shutil.copytree(finished, tmp_path / "run")
  _kill_after(monkeypatch, 0)
  train.train_and_certify(_config(), str(workdir))
  assert _bits(_state(_config(), workdir)) == _bits(
      _state(_config(), finished)
  )
  assert metrics.read(str(workdir)) == metrics.read(str(finished))


def _diverge(workdir: pathlib.Path, minutes: float):
  """A run whose weights become huge in step 1.

  Returns:
    The error's message, and the state that is saved.
  """
  config = _config(
      optimizer__name="sgd", optimizer__learning_rate=1e37,
      checkpoint_minutes=minutes, goal="Mix(Point, Box, 0.5)",
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(certify_run, "certify_state", lambda *args: None)
    with pytest.raises(loop.NotFiniteError) as caught:
      train.train_and_certify(config, str(workdir))
  return str(caught.value), _state(config, workdir)


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
  """Message and saved state of a run that saves after every step."""
  workdir = tmp_path_factory.mktemp("diverged")
  return workdir, *_diverge(workdir, minutes=0.0)


def _assert_says_where(message: str):
  assert "\n" not in message
  found = re.search(r"step (\d+) \(epoch ([\d.]+), epsilon 0.05", message)
  step, epoch = int(found[1]), float(found[2])
  assert 1 < step <= 2 * _STEPS + 1
  assert epoch == pytest.approx(step / _STEPS, abs=0.01)
  assert "largest bound" in message


def test_divergence_stops_the_run_and_says_why(tmp_path):
  """One error with step, epoch, ε and bound; only the beginning is saved."""
  message, saved = _diverge(tmp_path, minutes=5.0)
  _assert_says_where(message)
  assert str(tmp_path / "checkpoints" / "0") in message
  assert int(saved.step) == 0


def test_divergence_names_the_checkpoint(diverged):
  """The one to go on from is there, and has no number that is not finite."""
  workdir, message, saved = diverged
  _assert_says_where(message)
  assert str(workdir / "checkpoints" / str(int(saved.step))) in message
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(saved))


def test_a_named_checkpoint_of_a_diverged_run_is_good(diverged):
  """The "last good checkpoint" has finite outputs: one can go on from it."""
  _, _, saved = diverged
  network = train.Job.from_config(_config()).network
  images = load("digits", "train").images[:50] / np.float32(255)
  logits = network.apply({"params": saved.params}, images)
  assert np.all(np.isfinite(logits))


def test_a_checkpoint_costs_no_step(tmp_path, monkeypatch, no_certification):
  """However many are saved, one further step is taken: after the last."""
  make_step = job.make_step
  taken = []

  def counting(*args, **kwargs):
    step = make_step(*args, **kwargs)

    def counted(state, *batch):
      taken.append(int(state.step))
      return step(state, *batch)

    return counted

  monkeypatch.setattr(job, "make_step", counting)
  train.train_and_certify(_config(checkpoint_minutes=0.0), str(tmp_path))
  assert taken == list(range(2 * _STEPS + 1))


def test_the_checkpoint_before_a_damaged_one_ends_the_same(
    tmp_path, capsys, finished, no_certification
):
  """One line of warning; the same steps, and the same bits at the end."""
  workdir = shutil.copytree(finished, tmp_path / "run")
  (workdir / "checkpoints" / str(2 * _STEPS) / "checkpoint.json").unlink()
  train.train_and_certify(_config(), str(workdir))
  told = capsys.readouterr().err
  assert told.count("\n") == 1 and "checkpoints/0 is used instead" in told
  assert _bits(_state(_config(), workdir)) == _bits(
      _state(_config(), finished)
  )
  assert capsys.readouterr().err == ""


def test_a_lost_config_comes_back_from_the_checkpoint(
    tmp_path, monkeypatch, capsys, finished, no_certification
):
  """The run goes on as its own; nobody else's may."""
  workdir = shutil.copytree(finished, tmp_path / "run")
  (workdir / "config.json").unlink()
  with pytest.raises(UsageError, match=r"seed \(0, now 1\)"):
    train.train_and_certify(_config(seed=1), str(workdir))
  _kill_after(monkeypatch, 0)
  train.train_and_certify(_config(), str(workdir))
  assert "config.json is gone" in capsys.readouterr().err
  assert json.loads((workdir / "config.json").read_text())["seed"] == 0


def _stop_after(monkeypatch, step: int) -> None:
  """A signal arrives during that step."""
  checked = loop._check_finite

  def check(number, *args):
    if number == step:
      os.kill(os.getpid(), signal.SIGTERM)
    return checked(number, *args)

  monkeypatch.setattr(loop.platforms, "queued_dispatches", lambda: 0)
  monkeypatch.setattr(loop, "_check_finite", check)


def test_a_signal_saves_and_the_run_goes_on_bit_by_bit(
    tmp_path, monkeypatch, finished, no_certification
):
  """It says which step is saved where, and nothing after it is lost."""
  with monkeypatch.context() as patch:
    _stop_after(patch, 5)
    with pytest.raises(interrupts.Interrupted) as caught, interrupts.caught():
      train.train_and_certify(_config(), str(tmp_path))
  assert caught.value.exit_code == 143
  saved = tmp_path / "checkpoints" / "5"
  assert f"after step 5 of 12; saved as {saved}" in caught.value.message
  assert int(_state(_config(), tmp_path).step) == 5
  train.train_and_certify(_config(), str(tmp_path))
  assert _bits(_state(_config(), tmp_path)) == _bits(
      _state(_config(), finished)
  )


def test_a_full_disk_is_told_and_training_goes_on(
    tmp_path, monkeypatch, capsys, finished
):
  """Certified all the same; at the end the error says what is not saved."""
  write = checkpoints.Keeper.write
  certified = []

  def full(keeper, state):
    if int(state.step) > 0:
      raise checkpoints.CannotSave("No space left on device")
    write(keeper, state)

  monkeypatch.setattr(checkpoints.Keeper, "write", full)
  monkeypatch.setattr(
      certify_run, "certify_state", lambda job, state, *rest: certified.append(state)
  )
  config = _config(checkpoint_minutes=0.0)
  with pytest.raises(UsageError, match="step 12 cannot be saved in .*No space"):
    train.train_and_certify(config, str(tmp_path))
  warnings = capsys.readouterr().err.splitlines()
  assert len(warnings) == 2 * _STEPS
  assert all(str(tmp_path) in line for line in warnings)
  assert _bits(certified[0]) == _bits(_state(config, finished))


def test_what_cannot_be_saved_is_not_begun(
    tmp_path, monkeypatch, no_certification
):
  """Before the first hour is spent: no step is taken."""

  def full(keeper, state):
    raise checkpoints.CannotSave("No space left on device")

  monkeypatch.setattr(checkpoints.Keeper, "write", full)
  _kill_after(monkeypatch, 0)
  with pytest.raises(UsageError, match="step 0 cannot be saved in .*No space"):
    train.train_and_certify(_config(), str(tmp_path))


def test_a_finished_run_goes_on_when_it_is_made_longer(
    tmp_path, finished, no_certification
):
  """It ends as one that was so long from the beginning."""
  short = tmp_path / "short"
  train.train_and_certify(_config(epochs=1.0), str(short))
  train.train_and_certify(_config(), str(short))
  assert _bits(_state(_config(), short)) == _bits(_state(_config(), finished))
  with pytest.raises(UsageError, match="epochs can only be raised"):
    train.train_and_certify(_config(epochs=1.0), str(short))


def test_a_longer_run_keeps_the_pace_of_its_schedules(
    tmp_path, no_certification
):
  """What schedule_epochs was stretched to stays: 4 of them an epoch.

  A run that has the same pace from the beginning ends with the same bits.
  """
  goal = "Sub(Lin(0, 1, 8), Box)"
  train.train_and_certify(
      _config(epochs=1.0, schedule_epochs=4.0, goal=goal),
      str(tmp_path / "longer"),
  )
  longer = _config(epochs=2.0, schedule_epochs=4.0, goal=goal)
  train.train_and_certify(longer, str(tmp_path / "longer"))
  train.train_and_certify(longer, str(tmp_path / "longer"))
  whole = _config(epochs=2.0, schedule_epochs=8.0, goal=goal)
  train.train_and_certify(whole, str(tmp_path / "whole"))
  assert _bits(_state(longer, tmp_path / "longer")) == _bits(
      _state(whole, tmp_path / "whole")
  )


@pytest.mark.parametrize("name", ["", "checkpoints", "checkpoints/12"])
def test_a_run_may_begin_with_the_weights_of_another(
    tmp_path, monkeypatch, finished, no_certification, name
):
  """At step 0, with a fresh optimiser, also of another kind."""
  states = []
  make_step = job.make_step

  def watching(*args, **kwargs):
    step = make_step(*args, **kwargs)

    def watched_step(state, *batch):
      states.append(jax.tree.map(np.array, state))
      return step(state, *batch)

    return watched_step

  monkeypatch.setattr(job, "make_step", watching)
  config = _config(
      checkpoint=str(finished / name), optimizer__name="sgd", epochs=0.2,
      goal="Point",
  )
  train.train_and_certify(config, str(tmp_path / "run"))
  source = _state(_config(), finished)
  assert int(states[0].step) == 0
  assert _bits(states[0].params) == _bits(source.params)
  assert all(not np.any(x) for x in jax.tree.leaves(states[0].optimizer))
  # It goes on by itself, without the other one; and from no other.
  config.checkpoint = None
  train.train_and_certify(config, str(tmp_path / "run"))
  config.checkpoint = str(tmp_path / "run")  # Its own.
  train.train_and_certify(config, str(tmp_path / "run"))
  with pytest.raises(UsageError, match="belongs to another run.*checkpoint"):
    train.train_and_certify(_config(checkpoint=str(tmp_path)), str(finished))


def test_a_start_of_another_network_is_refused(
    tmp_path, finished, no_certification
):
  """One line that names the checkpoint; and one where there is none."""
  config = _config(checkpoint=str(finished), network="FFNN")
  with pytest.raises(UsageError, match="12 is of another network"):
    train.train_and_certify(config, str(tmp_path / "run"))
  config = _config(checkpoint=str(tmp_path / "nowhere"))
  with pytest.raises(UsageError, match="nowhere is no folder"):
    train.train_and_certify(config, str(tmp_path / "other"))


def test_certifying_uses_the_checkpoint_before_a_damaged_one(
    tmp_path, capsys, finished
):
  """With one line of warning; its results stand beside those of the last."""
  workdir = shutil.copytree(finished, tmp_path / "run")
  before = (workdir / "certification.json").read_bytes()
  for path in (workdir / "checkpoints" / "12").rglob("d/*"):
    path.write_bytes(b"")
  config = _config(certify__examples=3, certify__methods=("Box",))
  certify_run.certify_checkpoint(config, str(workdir))
  assert "checkpoints/0 is used instead" in capsys.readouterr().err
  (path,) = workdir.glob("certifications/*/certification.json")
  assert json.loads(path.read_text())["step"] == 0
  assert (workdir / "certification.json").read_bytes() == before


def test_another_config_changes_no_byte(finished):
  """A work folder is one config's; the error names what differs."""
  before = _files(finished)
  with pytest.raises(UsageError, match=r"epsilon \(0.05, now 0.07\)") as caught:
    train.train_and_certify(_config(epsilon=0.07), str(finished))
  assert str(finished) in str(caught.value)
  with pytest.raises(UsageError, match="differs in goal"):
    train.train_and_certify(_config(goal="Point"), str(finished))
  assert _files(finished) == before


@pytest.mark.parametrize("values, message", [
    ({"batch_size": 2000}, "batch_size is 2000.*1437"),
    ({"epsilon": 1.5}, "epsilon is 1.5"),
    ({"goal": "Pint"}, "unknown name Pint"),
    ({"network": "Tinny"}, "did you mean 'Tiny'"),
    ({"train_split": "nowhere"}, "no split 'nowhere'"),
    ({"dataset": "mnist", "data_dir": "nowhere"}, "which does not exist"),
])
def test_errors_of_the_config_leave_no_trace(tmp_path, values, message):
  """What cannot be run is refused before anything is written."""
  workdir = tmp_path / "run"
  with pytest.raises(UsageError, match=message):
    train.train_and_certify(_config(**values), str(workdir))
  assert not workdir.exists()


def test_certify_checkpoint_of_a_work_folder(tmp_path, finished):
  """From the run's folder, its checkpoints folder: the run's own results."""
  for number, source in enumerate((finished, finished / "checkpoints")):
    workdir = tmp_path / str(number)
    config = _config(
        checkpoint=str(source), certify__methods=("Box",),
        certify__examples=9 - number,
    )
    certify_run.certify_checkpoint(config, str(workdir))
    summary = json.loads((workdir / "certification.json").read_text())
    assert summary["examples"] == 9 - number
    assert set(summary["verified_accuracy"]) == {"Box"}
    with (
        np.load(workdir / "certification.npz") as found,
        np.load(finished / "certification.npz") as wanted,
    ):
      for name in ("prediction", "attacked_correct", "verified_Box"):
        np.testing.assert_array_equal(
            found[name], wanted[name][: 9 - number], err_msg=name
        )
    assert (workdir / "report.html").exists()
    assert not (workdir / "checkpoints").exists()


def test_certify_without_a_run_is_refused(tmp_path):
  """No config, no checkpoint, another network: one line, nothing written."""
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(UsageError, match="no trained network"):
    certify_run.certify_checkpoint(_config(), str(empty))
  with pytest.raises(UsageError, match="nowhere"):
    certify_run.certify_checkpoint(_config(), str(tmp_path / "nowhere"))
  assert not list(empty.iterdir())
  (empty / "config.json").write_text(_config().to_json())
  with pytest.raises(UsageError, match="no checkpoint"):
    certify_run.certify_checkpoint(_config(), str(empty))
  assert {path.name for path in empty.iterdir()} == {"config.json"}
  assert not (tmp_path / "nowhere").exists()


def test_certify_another_network_is_refused(finished):
  """The error says that the folder has another network."""
  before = _files(finished)
  with pytest.raises(UsageError, match=r"network \(Tiny, now FFNN\)"):
    certify_run.certify_checkpoint(_config(network="FFNN"), str(finished))
  assert _files(finished) == before


def test_the_schedules_clock_is_stretched():
  """schedule_epochs epochs of the schedules pass in `epochs` epochs."""
  job = train.Job.from_config(_config(epochs=2.0, schedule_epochs=8.0))
  assert float(job.epoch_of(0, 6)) == 0
  assert float(job.epoch_of(6, 6)) == pytest.approx(4)
  assert float(job.epoch_of(12, 6)) == pytest.approx(8)
  plain = train.Job.from_config(_config(epochs=2.0))
  assert float(plain.epoch_of(9, 6)) == pytest.approx(1.5)


@pytest.mark.parametrize("steps", [47, 97, 235, 469])
def test_whole_epochs_are_whole_numbers(steps):
  """Compiled, too: or milestones would act one step late."""
  made = train.Job.from_config(_config())
  found = jax.jit(lambda step: made.epoch_of(step, steps))(
      steps * np.arange(500)
  )
  np.testing.assert_array_equal(found, np.arange(500))


def test_shorter_runs_keep_the_curves_shape(tmp_path, no_certification):
  """ε and the learning rate follow the stretched clock in a real run.

  After half of the run, at schedule epoch 4, the rate is multiplied by 0:
  the weights stay those of a run of the first half. The last step, at
  schedule epoch 8·11/12, is trained on that share of ε.
  """
  goal = "Sub(Lin(0, 1, 8), Box)"
  whole = _config(
      epochs=2.0, schedule_epochs=8.0, goal=goal, optimizer__decay=0.0,
      optimizer__milestones=(4,), optimizer__name="sgd",
  )
  half = _config(
      epochs=1.0, schedule_epochs=4.0, goal=goal, optimizer__name="sgd"
  )
  train.train_and_certify(whole, str(tmp_path / "whole"))
  train.train_and_certify(half, str(tmp_path / "half"))
  found = _state(whole, tmp_path / "whole")
  wanted = _state(half, tmp_path / "half")
  assert int(found.step) == 2 * int(wanted.step) == 2 * _STEPS
  jax.tree.map(np.testing.assert_array_equal, found.params, wanted.params)
  last = metrics.read(str(tmp_path / "whole"))[-1]
  assert last["epsilon"] == pytest.approx(0.05 * 11 / 12, rel=1e-4)


def test_describe_gives_listing_and_objective():
  """The listing, the objective in full and ε; a scheme is written out."""
  config = _config(goal="Baseline", schedule_epochs=200.0)
  text = train.Job.from_config(config).describe()
  lines = text.splitlines()
  assert lines[0].startswith("Normalize")
  assert lines[-3] == (
      "Objective: Mix(Point, Sub(Lin(0, 1, 150, 10), Box),"
      " Lin(0, 0.5, 150, 10))"
  )
  assert lines[-2] == "Epsilon: 0.05"
  assert re.fullmatch(
      r"Training step: about [\d.,]+ GFLOP, [\d,]+ MiB for 220 images", lines[-1]
  )


def test_augmentation_is_the_datasets_unless_the_config_says_otherwise():
  """Null keys follow the dataset, also one that a flag has set."""
  config = base_config("digits")
  config.network = "FFNN"
  assert train.Job.from_config(config).dataset.crop_padding == 0
  config.dataset = "cifar10"
  made = train.Job.from_config(config)
  assert (made.dataset.crop_padding, made.dataset.flip) == (4, True)
  config.augment.crop_padding = 1
  config.augment.flip = False
  made = train.Job.from_config(config)
  assert (made.dataset.crop_padding, made.dataset.flip) == (1, False)
