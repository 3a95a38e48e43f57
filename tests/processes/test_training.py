"""One run of two real processes: the same numbers, one record, one end."""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
from running import TINY, run
import tiny_config
from training_run import watched, without_pictures

from diffai_jax.app import command_line, config_file, train
from diffai_jax.networks import NETWORKS
from diffai_jax.training import checkpoints, loop, metrics, snapshot

_CONFIG = str(
    pathlib.Path(__file__).parents[2] / "configs" / "quickstart.py"
)
_FLAGS = tuple(f"--config.{text}" for text in (
    "network=Tiny", "goal=Mix(Point, Box, 0.5)", "epochs=2", "batch_size=220",
    "optimizer.name=sgd", "optimizer.learning_rate=0.1", "epsilon=0.001",
    "mean=0.3", "std=0.4", "augment.crop_padding=1",
    "checkpoint_minutes=100", "certify.methods=Box", "certify.examples=21",
    "certify.attack.steps=2", "compilation_cache=", "xla_flags=false",
))
_TOTAL = 12  # Steps: six an epoch.


@pytest.fixture(scope="module")
def flags(tmp_path_factory) -> tuple[str, ...]:
  """Of the config, with the digits in a file."""
  name = tiny_config.save_digits(tmp_path_factory.mktemp("data"))
  return *_FLAGS, f"--config.dataset={name}"


def _run(flags, workdir: pathlib.Path, stop: str = "", **options):
  return run(
      "training_run.py",
      [f"{workdir}.losses", stop, f"--config={_CONFIG}",
       f"--workdir={workdir}", *flags],
      **options,
  )


def _run_here(flags, workdir: pathlib.Path) -> None:
  """The same run, in this process."""
  _, changes = command_line.take_changes(flags)
  config = config_file.load(_CONFIG, changes)
  command_line.apply(config, changes)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "_check_finite", watched(f"{workdir}.losses"))
    train.train_and_certify(config, str(workdir))


def _losses(workdir: pathlib.Path) -> dict[int, float]:
  """By their steps, each as it was found last."""
  text = pathlib.Path(f"{workdir}.losses").read_text()
  pairs = (line.split() for line in text.splitlines())
  return {int(step): float(loss) for step, loss in pairs}


def _state(workdir: pathlib.Path) -> tuple[int, dict[str, np.ndarray]]:
  """The step and arrays of the newest checkpoint."""
  path = checkpoints.steps_of(str(workdir / checkpoints.FOLDER))[0]
  return int(os.path.basename(path)), snapshot.read_arrays(
      path, snapshot.read_manifest(path)
  )


def _assert_same(workdir: pathlib.Path, other: pathlib.Path) -> None:
  """The same parameters, optimiser and statistics, and the same results."""
  (step, found), (last, wanted) = _state(workdir), _state(other)
  assert step == last == _TOTAL
  assert set(found) == set(wanted)
  for name, array in wanted.items():
    np.testing.assert_allclose(
        found[name], array, rtol=1e-6, atol=1e-6, err_msg=name
    )
  with (
      np.load(workdir / "certification.npz") as first,
      np.load(other / "certification.npz") as second,
  ):
    for name in ("index", "label", "prediction", "verified_Box"):
      np.testing.assert_array_equal(first[name], second[name])
    assert 0 < np.sum(first["verified_Box"]) < 21


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(NETWORKS, "Tiny", TINY)
    without_pictures(patch.setattr)
    yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory, flags) -> pathlib.Path:
  """The whole run of one process."""
  workdir = tmp_path_factory.mktemp("alone") / "run"
  _run_here(flags, workdir)
  return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, flags):
  """A run of two processes, the second of which was asked to end."""
  workdir = tmp_path_factory.mktemp("stopped") / "run"
  return workdir, _run(flags, workdir, f"1:5:{signal.SIGTERM:d}")


def test_a_signal_of_one_process_ends_both_after_the_same_step(stopped):
  """Saved, with the code that launchers know, and told once."""
  workdir, (first, second) = stopped
  assert (first.code, second.code) == (143, 143), (first, second)
  assert first.err == [
      f"error: stopped by SIGTERM after step 5 of {_TOTAL}; saved as"
      f" {workdir / 'checkpoints' / '5'}; the same command goes on from there"
  ]
  assert [text for text in second.err if text] == [
      "SIGTERM: stopping after this step; once more ends at once"
  ]
  assert not second.out
  assert "2 cpu of 2 processes" in "\n".join(first.out)
  assert not any("Gloo" in text for text in first.out)
  assert _state(workdir)[0] == 5
  assert not list(workdir.glob("**/*.tmp"))


def test_losses_are_those_of_one_process(stopped, alone):
  """Of random crops, which are the same."""
  found, wanted = _losses(stopped[0]), _losses(alone)
  assert set(found) == set(range(1, 7))
  del found[6]  # It was only tried, on the fifth one's images.
  assert found == pytest.approx({n: wanted[n] for n in found}, rel=1e-5)
  assert wanted[12] < wanted[1]


def test_metrics_are_written_once(stopped):
  workdir, _ = stopped
  text = (workdir / metrics.FILE).read_text()
  steps = [json.loads(line)["step"] for line in text.splitlines()]
  assert steps == sorted(set(steps))
  assert len(list(workdir.glob("events.out.tfevents.*"))) == 1


def test_one_process_goes_on_where_two_were(
    tmp_path, flags, stopped, alone
):
  """To the parameters and the verified images of a run of one process."""
  workdir = shutil.copytree(stopped[0], tmp_path / "run")
  _run_here(flags, workdir)
  _assert_same(workdir, alone)
  assert metrics.read(str(workdir))[-1]["step"] == _TOTAL


def test_any_number_of_processes_and_devices_goes_on(
    tmp_path, flags, stopped, alone
):
  """Two processes, four devices of one, two of which one dies, two again."""
  workdir = shutil.copytree(stopped[0], tmp_path / "run")
  (four,) = _run(flags, workdir, f"0:8:{signal.SIGTERM:d}", count=1, devices=4)
  assert four.code == 143, four
  assert _state(workdir)[0] == 8

  first, second = _run(flags, workdir, f"1:10:{signal.SIGKILL:d}")
  assert (first.code, second.code) == (1, -9), (first, second)
  (line,) = first.err
  assert line.startswith("error: process 1 of 2 (pid "), line
  assert "goes on from the last checkpoint" in line
  assert _state(workdir)[0] == 8

  first, second = _run(flags, workdir)
  assert (first.code, second.code) == (0, 0), (first, second)
  assert f"going on from step 8 of {_TOTAL}" in first.out
  assert not second.out and not second.err
  _assert_same(workdir, alone)
  found, wanted = _losses(workdir), _losses(alone)
  assert found == pytest.approx({n: wanted[n] for n in found}, rel=1e-5)
