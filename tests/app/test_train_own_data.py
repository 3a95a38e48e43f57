"""The user's own data, from files to certified results, in tiny runs."""

import functools
import json

import numpy as np
import PIL.Image
import pytest

from diffai_jax.app import certify_run, report, run, train
from diffai_jax.app.config import base_config
from diffai_jax.data import load
from diffai_jax.networks import NETWORKS, ffnn
from diffai_jax.types import UsageError
from diffai_jax.verification import certification


@pytest.fixture(autouse=True, scope="module")
def _tiny_network():
  """A network that compiles in no time, by the name of Tiny."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NETWORKS, "Tiny", functools.partial(ffnn, hidden=(8,)))
    yield


def config_of(name, epsilon, **values):
  config = base_config("", name, epsilon)
  config.network = "Tiny"
  config.goal = "Mix(Point, Box, 0.3)"
  config.epochs = 60.0
  config.batch_size = 40
  config.optimizer.learning_rate = 0.03
  config.certify.methods = ("Box",)
  config.certify.attack.steps = 3
  with config.ignore_type():
    for key, value in values.items():
      config[key] = value
  return config


def _rows(scale=1.0, shift=0.0):
  """Two classes, apart by the sum of their four columns; numbers of [0, 1]."""
  random = np.random.default_rng(0)
  rows = random.uniform(0, 1, (100, 4)).astype(np.float32)
  labels = (rows.sum(axis=1) > 2).astype(int)
  rows += np.where(labels, 0.02, -0.02)[:, None]
  return (np.clip(rows, 0, 1) * scale + shift).astype(np.float32), labels


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """(work folder, config) of a run on rows of 0 to 10. Tests change neither."""
  folder = tmp_path_factory.mktemp("table")
  rows, labels = _rows(scale=10)
  np.savez(folder / "rows.npz", images=rows, labels=labels)
  config = config_of(
      f"npz:{folder}/rows.npz", 0.5, data_range=(0, 10), mean=(5,), std=(3,)
  )
  train.train_and_certify(config, str(folder / "run"))
  return folder / "run", config


def test_a_table_in_its_own_units(finished):
  """Trained and proved, and no point of the attack leaves range or radius."""
  workdir, config = finished
  summary = certification.load_summary(str(workdir))
  assert summary["examples"] == 20
  assert summary["standard_accuracy"] > 0.8
  assert summary["verified_accuracy"]["Box"] > 0.4
  arrays = certification.load_arrays(str(workdir))
  test = load(config.dataset, "test", data_range=(0, 10))
  points = arrays["counterexample_image"]
  images = test.images[arrays["counterexample_index"]]
  assert len(points) and (points >= 0).all() and (points <= 10).all()
  assert np.max(np.abs(points - images)) <= 0.5 * (1 + 1e-5)
  assert np.max(np.abs(points - images)) > 0.4  # The radius is no pixel's.


def test_the_run_is_loaded_where_the_data_are_gone(finished, monkeypatch):
  """Everything that needs no data works; the rest is one line."""
  workdir, config = finished
  path = workdir.parent / "rows.npz"
  away = path.rename(workdir.parent / "away.npz")
  try:
    found = run.load(workdir)
    assert found.input_shape == (4,) and found.data_range == (0, 10)
    assert found.certifications["own"]["examples"] == 20
    report.write(str(workdir))
    for call in (train.train_and_certify, certify_run.certify_checkpoint):
      with pytest.raises(UsageError, match="rows.npz' does not exist; give"):
        call(config, str(workdir))
  finally:
    away.rename(path)
  rows = np.load(path)["images"][:5]
  logits = found.network.apply(found.variables, rows)
  assert logits.shape == (5, 2)


def test_the_run_knows_its_data(finished, tmp_path, capsys):
  """Elsewhere they are the same; changed ones are another run's."""
  workdir, config = finished
  arrays = dict(np.load(workdir.parent / "rows.npz"))
  np.savez(tmp_path / "rows.npz", **arrays)
  moved = config.copy_and_resolve_references()
  moved.dataset = f"npz:{tmp_path}/rows.npz"
  train.train_and_certify(moved, str(workdir))
  assert "has this certification already" not in capsys.readouterr().err
  arrays["images"][7, 1] += 0.01
  np.savez(tmp_path / "rows.npz", **arrays)
  before = (workdir / "config.json").read_bytes()
  with pytest.raises(UsageError, match=r"differs in training_data \(\w+, now"):
    train.train_and_certify(moved, str(workdir))
  assert (workdir / "config.json").read_bytes() == before
  for key, value in (("mean", (4,)), ("data_range", (0, 11)), ("std", None)):
    other = config.copy_and_resolve_references()
    with other.ignore_type():
      other[key] = value
    with pytest.raises(UsageError, match=f"another network: it differs in {key}"):
      certify_run.certify_checkpoint(other, str(workdir))


def test_a_folder_of_images_with_augmentation(tmp_path, capsys):
  """Gray images of 4×4: bright and dark ones; a line tells mean and deviation."""
  random = np.random.default_rng(1)
  for name, level in (("bright", 180), ("dark", 60)):
    (tmp_path / "pics" / name).mkdir(parents=True)
    for number in range(50):
      pixels = random.integers(level - 40, level + 40, (4, 4), dtype=np.uint8)
      PIL.Image.fromarray(pixels).save(tmp_path / "pics" / name / f"{number}.png")
  config = config_of(f"folder:{tmp_path}/pics", 0.05)
  config.augment.crop_padding, config.augment.flip = 1, True
  config.epochs = 20.0
  train.train_and_certify(config, str(tmp_path / "run"))
  summary = json.loads((tmp_path / "run" / "certification.json").read_text())
  assert summary["examples"] == 20
  assert summary["verified_accuracy"]["Box"] > 0.7
  told = capsys.readouterr()
  # The terminal wraps its lines.
  assert "--config.mean=0.46" in "".join((told.out + told.err).split())
