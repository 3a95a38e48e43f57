"""A batch-normalised network from training to its certificate."""

import functools
import json

import jax
import numpy as np
import pytest
import test_train
from test_train import _STEPS, _Killed, _bits, _kill_after, _state
from weights import layers

from diffai_jax.app import certify_run, train
from diffai_jax.data import load
from diffai_jax.networks import NETWORKS, convnet
from diffai_jax.training import loop
from diffai_jax.types import UsageError


# One program for the whole run, and one for its certificate.
_config = functools.partial(
    test_train._config, goal="Mix(Point, Box, 0.5)", certify__methods=("Box",)
)


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  """CNN7 in small: convolutions and a dense layer, all normalised."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NETWORKS, "Tiny", functools.partial(
        convnet, convolutions=((4, 3, 2),), padding=1, hidden=(12,),
        batch_norm=True,
    ))
    yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A work folder of a whole run."""
  workdir = tmp_path_factory.mktemp("finished") / "run"
  train.train_and_certify(_config(), str(workdir))
  return workdir


def _statistics(tree) -> list[dict]:
  """The dicts with a mean and a variance, in the order of the layers."""
  if "variance" in tree:
    return [tree]
  return [found for key in sorted(tree) for found in _statistics(tree[key])]


def test_a_killed_run_goes_on_bit_by_bit(finished, tmp_path, monkeypatch):
  """Its checkpoint holds the statistics: it ends where the whole run did."""
  monkeypatch.setattr(certify_run, "certify_state", lambda *args: None)
  config = _config(checkpoint_minutes=0.0)
  with monkeypatch.context() as patch, pytest.raises(_Killed):
    patch.setattr(loop.platforms, "queued_dispatches", lambda: 0)
    _kill_after(patch, _STEPS + 2)
    train.train_and_certify(config, str(tmp_path))
  saved = _state(config, tmp_path)
  whole = _state(_config(), finished)
  assert int(saved.step) == _STEPS + 1
  for statistics in _statistics(saved.statistics):
    # They have moved on from 0 and 1.
    assert np.all(np.abs(statistics["mean"]) > 1e-4)
    assert np.all(np.abs(statistics["variance"] - 1) > 1e-4)
  assert len(_statistics(saved.statistics)) == 2
  train.train_and_certify(config, str(tmp_path))
  assert _bits(_state(config, tmp_path)) == _bits(whole)
  assert _bits(saved.statistics) != _bits(whole.statistics)


def test_certified_predictions_are_the_populations(finished):
  """Weights and statistics of the checkpoint, run in NumPy."""
  state = jax.tree.map(np.asarray, _state(_config(), finished))
  data = load("digits", "test")
  images = data.images[:30].reshape(30, 8, 8, 1).astype(np.float64) / 255
  value = np.pad((images - 0.3053) / 0.3760, ((0, 0), (1, 1), (1, 1), (0, 0)))
  conv, hidden, last = layers(state.params)
  value = sum(
      value[:, i : i + 7 : 2, j : j + 7 : 2] @ conv["kernel"][i, j]
      for i in range(3) for j in range(3)
  )
  norms = _normalisations(state.params)
  first, second = _statistics(state.statistics)
  value = _normalised(value + conv["bias"], norms[0], first).reshape(30, -1)
  value = value @ hidden["kernel"] + hidden["bias"]
  value = _normalised(value, norms[1], second) @ last["kernel"] + last["bias"]
  with np.load(finished / "certification.npz") as arrays:
    np.testing.assert_array_equal(arrays["prediction"], value.argmax(axis=1))
  found = json.loads((finished / "certification.json").read_text())
  correct = np.mean(value.argmax(axis=1) == data.labels[:30])
  assert found["standard_accuracy"] == pytest.approx(correct)
  assert correct > 0.4  # It did learn.
  assert found["verified_accuracy"]["Box"] <= found["attacked_accuracy"]


def _normalisations(tree) -> list[dict]:
  """The dicts with a scale, in the order of the layers."""
  if "scale" in tree:
    return [tree]
  if "kernel" in tree:
    return []
  return [found for key in sorted(tree) for found in _normalisations(tree[key])]


def _normalised(x, norm, statistics):
  by = norm["scale"] / np.sqrt(statistics["variance"] + 1e-5)
  return np.maximum((x - statistics["mean"]) * by + norm["bias"], 0)


def test_its_checkpoint_can_be_certified_again(finished, tmp_path):
  """By a command of its own, which restores the statistics."""
  config = _config(checkpoint=str(finished), certify__examples=10)
  certify_run.certify_checkpoint(config, str(tmp_path))
  with (
      np.load(tmp_path / "certification.npz") as found,
      np.load(finished / "certification.npz") as wanted,
  ):
    for name in ("prediction", "verified_Box"):
      np.testing.assert_array_equal(found[name], wanted[name][:10])


def test_a_batch_must_fall_into_equal_parts(tmp_path):
  """One line that says so, before anything is written."""
  with pytest.raises(UsageError, match="accumulate=3") as caught:
    train.train_and_certify(_config(accumulate=3), str(tmp_path / "run"))
  assert "batch_size is 220" in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size, accumulate", [(1, 1), (4, 4)])
def test_one_image_a_part_is_refused_before_anything_is_written(
    tmp_path, batch_size, accumulate
):
  """Its variance is 0, and bounds grew to 1e9 without a word."""
  config = _config(network="FFNN", batch_norm=True, accumulate=accumulate)
  config.batch_size = batch_size
  with pytest.raises(UsageError, match="one image a part"):
    train.train_and_certify(config, str(tmp_path / "run"))
  assert not (tmp_path / "run").exists()
