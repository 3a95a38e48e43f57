"""Training from Python: the same as the command's, on any arrays, in any folder."""

import functools
import json

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax.app import fit, run as runs, train
from diffai_jax.app.config import base_config
from diffai_jax.data import load
from diffai_jax.domains import box, lower, upper
from diffai_jax.networks import NETWORKS, ffnn
from diffai_jax.training import loop, metrics
from diffai_jax.types import Mode, UsageError

_RANDOM = np.random.default_rng(0)
_IMAGES = _RANDOM.random((60, 5)).astype(np.float32)
_LABELS = (_IMAGES[:, 0] > _IMAGES[:, 1]).astype(np.int64)
_NETWORK = dj.nn.Sequential([dj.nn.Linear(6), dj.nn.ReLU(), dj.nn.Linear(2)])
_QUICK = {"goal": "Mix(Point, Box, 0.5)", "epochs": 2, "batch_size": 20,
          "progress": False}


def _train(network=_NETWORK, data=(_IMAGES, _LABELS), **options):
  return dj.train(network, data, **(_QUICK | options))


def _bits(run) -> list[bytes]:
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(run.variables)]


@pytest.fixture(scope="module")
def quick():
  return _train()


def test_a_run_says_what_it_is(quick):
  assert quick.network is _NETWORK
  assert quick.data_range == (0, 1) and quick.input_shape == (5,)
  assert quick.step == 6 and quick.certifications == {}
  assert (quick.config.epsilon, quick.config.batch_size) == (0.1, 20)
  assert [row["step"] for row in quick.metrics] == [3, 6]
  assert [row["epoch"] for row in quick.metrics] == [1.0, 2.0]
  assert {"loss", "accuracy", "verified"} <= set(quick.metrics[0])
  assert quick.variables["params"]["layers_0"]["kernel"].shape == (5, 6)
  text = repr(quick)
  assert len(text) < 200 and "\n" not in text
  assert "50 weights" in text and "images [5]" in text and "step 6" in text


def test_the_same_arguments_give_the_same_bits(quick):
  assert _bits(_train()) == _bits(quick)
  assert _bits(_train(seed=1)) != _bits(quick)


def test_it_trains_as_the_command_does(tmp_path, monkeypatch):
  """On the same images and settings, to the last bit."""
  monkeypatch.setitem(NETWORKS, "FFNN", functools.partial(ffnn, hidden=(6,)))
  config = base_config("digits")
  config.network, config.goal = "FFNN", "Mix(Point, Box, 0.5)"
  config.epochs, config.batch_size = 0.15, 200
  monkeypatch.setattr(
      train.certify_run, "certify_state", lambda *args: None
  )
  monkeypatch.setattr(train.certify_run, "check_memory", lambda job: None)
  train.train_and_certify(config, str(tmp_path / "run"))
  theirs = dj.load(tmp_path / "run")
  data = load("digits", "train")
  ours = dj.train(
      theirs.network, (data.images, data.labels), goal=config.goal,
      epsilon=config.epsilon, epochs=0.15, batch_size=200, progress=False,
  )
  assert theirs.step == ours.step == 2
  assert _bits(ours) == _bits(theirs)
  assert theirs.input_shape == (8, 8, 1)
  assert theirs.config.dataset == "digits"


def test_bytes_are_floats_in_the_unit_range():
  pixels = _RANDOM.integers(0, 256, _IMAGES.shape, np.uint8)
  bits = [
      _bits(_train(data=(images, _LABELS)))
      for images in (pixels, pixels / np.float32(255), pixels / 255)
  ]
  assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("shape, data_range", [
    ((4,), (-2, 3)), ((2, 3), None), ((1, 2, 1, 2), (0, 1)), ((3, 2, 2), (5, 6)),
])
def test_images_of_any_shape_and_range(shape, data_range):
  """Boxes end at the range: a radius beyond its width is half of it."""
  low, high = data_range or (-100, 100)
  images = _RANDOM.uniform(low, high, (20, *shape))
  network = dj.nn.Sequential([dj.nn.Flatten(), dj.nn.Linear(2)])
  run = _train(
      network, (images, _LABELS[:20]), data_range=data_range, goal="Box",
      epochs=1, epsilon=(high - low) * 0.9,
      augment={"crop_padding": 1, "flip": True} if len(shape) == 3 else None,
  )
  assert run.data_range == data_range and run.input_shape == shape
  last = run.metrics[-1]
  assert np.isfinite(last["loss"])
  widest = (high - low) * (0.9 if data_range is None else 0.5)
  assert last["epsilon"] <= widest * 1.001
  assert last["epsilon"] > widest * 0.8


def test_names_become_networks_of_the_data(monkeypatch):
  """As many outputs as labels, and the images' mean and deviation."""
  monkeypatch.setitem(NETWORKS, "FFNN", functools.partial(ffnn, hidden=(6,)))
  images = _RANDOM.random((40, 4, 4, 2)) * np.array([1.0, 0.5])
  labels = np.arange(40) % 3
  run = _train("ffnn", (images, labels), epochs=0.5)
  assert run.config.network == "FFNN"
  normalize = run.network.layers[0].layers[0]
  np.testing.assert_allclose(normalize.mean, images.mean((0, 1, 2)), atol=1e-5)
  np.testing.assert_allclose(normalize.std, images.std((0, 1, 2)), atol=1e-5)
  logits = run.network.apply(run.variables, images[:1].astype(np.float32))
  assert logits.shape == (1, 3)


def test_test_images_are_measured_each_epoch(quick):
  """Accuracy and what interval bounds hold for, of the weights of that step."""
  images, labels = _IMAGES[:7], _LABELS[:7]
  run = _train(test=(images, labels), epsilon=0.02, epochs=3)
  assert all("test_accuracy" in row for row in run.metrics)
  logits = np.asarray(run.network.apply(run.variables, images))
  right = np.mean(logits.argmax(1) == labels)
  assert run.metrics[-1]["test_accuracy"] == pytest.approx(right)
  low, high = np.clip(images - 0.02, 0, 1), np.clip(images + 0.02, 0, 1)
  outcome = run.network.apply(
      run.variables, box((low + high) / 2, (high - low) / 2), Mode.CERTIFY
  )
  below, above = np.asarray(lower(outcome)), np.asarray(upper(outcome))
  rows = np.arange(7)
  separate = below[rows, labels] > above[rows, 1 - labels]
  # Bounds of differences are sharper than differences of bounds.
  assert run.metrics[-1]["test_verified"] >= separate.mean() - 1e-6
  assert run.metrics[-1]["test_verified"] <= right + 1e-6
  # Measuring changes nothing.
  assert _bits(_train(test=(images, labels))) == _bits(quick)


def test_batch_normalisation_keeps_the_populations_statistics():
  network = dj.nn.Sequential([
      dj.nn.Linear(4), dj.nn.BatchNorm(), dj.nn.ReLU(), dj.nn.Linear(2)
  ])
  run = _train(network)
  assert len(run.variables) == 2
  assert np.isfinite(run.network.apply(run.variables, _IMAGES)).all()


def test_settings_have_the_configs_names():
  run = _train(
      learning_rate="0.1 * cosine(1, 4)", epsilon="8/255", goal=_goal(),
      optimizer={"name": "sgd", "momentum": 0.5, "milestones": [1]},
      regularizers={"tightness": np.float32(0.5)}, accumulate=2,
      schedule_epochs=4, epochs=np.int64(1),
  )
  config = run.config
  assert config.optimizer.name == "sgd" and config.optimizer.milestones == (1,)
  assert config.epsilon == 8 / 255 and config.epochs == 1.0
  assert config.regularizers.tightness == 0.5 and config.goal == "Box"


def _goal():
  from diffai_jax import goals

  return goals.Box()


class _Sorting(flax.linen.Module):

  @flax.linen.compact
  def __call__(self, x):
    return flax.linen.Dense(2)(jnp.sort(x.reshape(len(x), -1), axis=1))


class _Plain(flax.linen.Module):

  def __call__(self, x):
    return x


@pytest.mark.parametrize("change, message", [
    ({"data": (_IMAGES * 255, _LABELS)}, "outside of the data's range"),
    ({"data": (_IMAGES, _LABELS + 1)}, r"from 0 to 1, as the network has 2"),
    ({"data": (_IMAGES[:0], _LABELS[:0])}, "images are empty"),
    ({"data": (_IMAGES, _LABELS[1:])}, "59 labels for 60 images"),
    ({"data": (np.full((60, 5), 1e39), _LABELS), "data_range": None}, "float32"),
    ({"data": _IMAGES}, r"expected a pair of arrays \(images, labels\)"),
    ({"data": (_IMAGES[:, :0], _LABELS)}, "images are empty"),
    ({"test": (_IMAGES[:, 1:], _LABELS)}, r"test images .*expected \[N, 5\]"),
    ({"test": (_IMAGES, _LABELS + 1)}, r"test labels\[\d+\] is 2"),
    ({"test": 3}, "test is 3; expected a pair"),
    ({"data_range": (1, 0)}, "data_range is"),
    ({"goal": "Nothing"}, "goal: unknown name Nothing"),
    ({"goal": 3}, "goal"),
    ({"epsilon": -0.1}, "epsilon is -0.1; expected a number or fraction from 0"),
    ({"epsilon": 1.5}, "from 0 to 1"),
    ({"epochs": -1}, "epochs is -1.0; expected .*; set it with epochs="),
    ({"batch_size": 61}, "batch_size is 61, but there are only 60 images"),
    ({"batch_size": 2.5}, "batch_size is 2.5"),
    ({"accumulate": 7}, "batch_size is 20; expected a multiple"),
    ({"seed": "x"}, "seed is 'x'"),
    ({"optimizer": {"lr": 1}}, "did you mean 'optimizer.learning_rate'"),
    ({"optimizer": {3: 1}}, "optimizer.3"),
    ({"learning_rate": "Lin("}, "optimizer.learning_rate"),
    ({"augment": {"flip": True}}, r"only images \[N, H, W, C\] are cropped"),
    ({"augment": {"turn": False}}, "augment.turn"),
    ({"network": "FNN"}, "did you mean 'FFNN'"),
    ({"network": 7}, "network is 7; expected a Flax module"),
    ({"network": dj.nn.ReLU()}, "network has no weights"),
    ({"network": dj.nn.Conv2D(2, 1)}, r"expected \[H, W, C\]"),
    ({"network": _Plain()}, "network has no weights"),
    ({"abstract_layers": {"a": dj.nn.CorrelateAll()}}, "network takes a mode"),
    ({"network": flax.linen.Dense(2), "abstract_layers": {"a": 1}},
     "expected abstract layers"),
    ({"network": flax.linen.Dense(2),
      "abstract_layers": {"Dens": dj.nn.CorrelateAll()}}, "no layer 'Dens'"),
    ({"network": _Sorting()}, "sort"),
], ids=lambda value: None if isinstance(value, str) else "-".join(value))
def test_mistakes_are_value_errors_of_one_line(change, message):
  with pytest.raises(ValueError, match=message) as caught:
    _train(**change)
  text = str(caught.value)
  assert "\n" not in text and "--config" not in text and len(text) < 400


def test_divergence_is_told():
  with pytest.raises(loop.NotFiniteError, match="there is no checkpoint yet"):
    _train(learning_rate=1e38, epochs=30, goal="Box")


def test_schedules_that_outlast_the_run_are_warned_of(capsys):
  _train(goal="Mix(Point, Box, Lin(0, 0.5, 60))")
  told = capsys.readouterr().err
  assert told.count("\n") == 1
  assert "set schedule_epochs=60 or epochs=60 or more" in told


# Work folders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("work") / "run"
  _train(workdir=path)
  return path


def test_without_a_work_folder_nothing_is_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _train(epochs=1)
  assert not list(tmp_path.iterdir())


def test_a_work_folder_has_what_the_commands_has(folder, quick):
  names = {path.name for path in folder.iterdir()}
  events = {name for name in names if name.startswith("events.out")}
  assert names - events == {
      "config.json", "metrics.jsonl", "checkpoints", "network.json"
  }
  assert metrics.read(str(folder))[-1]["step"] == 6
  config = json.loads((folder / "config.json").read_text())
  assert config["epsilon"] == 0.1 and config["dataset"].startswith("arrays ")


def test_load_gives_the_run_back(folder, quick):
  run = dj.load(folder)
  assert run.network == _NETWORK
  assert _bits(run) == _bits(quick)
  assert (run.step, run.data_range, run.input_shape) == (6, (0, 1), (5,))
  assert run.config == quick.config
  assert run.certifications == {}
  assert [r["loss"] for r in run.metrics] == [r["loss"] for r in quick.metrics]
  first = dj.load(str(folder), step=0)
  assert first.step == 0 and _bits(first) != _bits(run)
  assert "accuracy" not in repr(first)


@pytest.mark.parametrize("step, message", [
    (5, "no checkpoint of step 5; it has 6, 0"), ("x", "of step 'x'"),
])
def test_a_checkpoint_that_is_not_there(folder, step, message):
  with pytest.raises(UsageError, match=message):
    dj.load(folder, step=step)


def test_a_folder_without_a_run(tmp_path):
  with pytest.raises(UsageError, match="holds no run") as caught:
    dj.load(tmp_path)
  assert "\n" not in str(caught.value)


def test_a_finished_run_is_not_trained_again(folder, monkeypatch):
  monkeypatch.setattr(
      fit.app_train.loop, "_check_finite", lambda *args: pytest.fail("a step")
  )
  assert _bits(_train(workdir=folder)) == _bits(dj.load(folder))


def test_a_killed_run_goes_on_bit_by_bit(tmp_path, monkeypatch):
  """Also with the rows that it had."""
  whole = _train(epochs=4)

  class Killed(BaseException):
    """As a signal would."""

  checked = loop._check_finite

  def check(number, *args):
    if number == 8:
      raise Killed
    return checked(number, *args)

  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(loop, "_check_finite", check)
    patch.setattr(loop.platforms, "queued_dispatches", lambda: 0)
    _train(epochs=4, workdir=tmp_path, checkpoint_minutes=0)
  assert dj.load(tmp_path).step == 6
  again = _train(epochs=4, workdir=tmp_path)
  assert _bits(again) == _bits(whole)
  assert [row["step"] for row in again.metrics] == [3, 6, 9, 12]


def test_other_data_and_other_settings_are_another_run(folder):
  with pytest.raises(UsageError, match=r"differs in dataset \(arrays"):
    _train(data=(_IMAGES, 1 - _LABELS), workdir=folder)
  with pytest.raises(UsageError, match=r"seed \(0, now 1\)"):
    _train(seed=1, workdir=folder)
  wider = dj.nn.Sequential([dj.nn.Linear(7), dj.nn.ReLU(), dj.nn.Linear(2)])
  with pytest.raises(UsageError, match=r"network \(Sequential"):
    _train(wider, workdir=folder)


class _Own(flax.linen.Module):
  """A module that only its own code can make."""

  @flax.linen.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    return dj.nn.Linear(2)(dj.nn.ReLU()(dj.nn.Linear(3)(x, mode), mode), mode)


def test_a_module_of_ones_own_is_given_to_load(tmp_path):
  run = _train(_Own(), workdir=tmp_path)
  with pytest.raises(UsageError, match=r"give it: load\(folder, network=...\)"):
    dj.load(tmp_path)
  assert _bits(dj.load(tmp_path, network=_Own())) == _bits(run)
  with pytest.raises(UsageError, match="is of another network"):
    dj.load(tmp_path, network=_NETWORK)


def test_load_finds_every_certification(folder, monkeypatch, capsys):
  """By name; a damaged one is told, and the others are there."""
  found = [
      (str(folder), {"epsilon": 0.1}),
      (str(folder / "certifications" / "epsilon_0.2"), {"epsilon": 0.2}),
      (str(folder / "certifications" / "bad"), UsageError("is damaged")),
  ]
  monkeypatch.setattr(
      runs.certifications, "found", lambda path: iter(found)
  )
  run = dj.load(folder)
  assert run.certifications == {
      "own": {"epsilon": 0.1}, "epsilon_0.2": {"epsilon": 0.2}
  }
  assert capsys.readouterr().err == "warning: is damaged\n"
