"""States are saved by a thread: what it has not ended yet is no checkpoint."""

import dataclasses
import os
import threading

import jax.numpy as jnp
import pytest

from diffai_jax.training import checkpoints
from diffai_jax.training.saving import Saver
from diffai_jax.training.state import TrainState
from diffai_jax.types import UsageError


def _state(step: int) -> TrainState:
  return TrainState(
      step=jnp.asarray(step, jnp.int32), params={"w": jnp.full(3, step + 0.5)},
      optimizer=(), statistics={},
  )


@dataclasses.dataclass
class _Disk:
  """Where writes wait until they may go on, and fail if they are to."""

  began: threading.Event
  may_end: threading.Event
  full: bool = False


@pytest.fixture
def disk(monkeypatch):
  """A slow disk, in the place of the keeper's."""
  found = _Disk(threading.Event(), threading.Event())
  write = checkpoints.Keeper.write

  def slow(keeper, state):
    found.began.set()
    assert found.may_end.wait(timeout=60)
    if found.full:
      raise checkpoints.CannotSave("No space left on device")
    write(keeper, state)

  monkeypatch.setattr(checkpoints.Keeper, "write", slow)
  yield found
  found.may_end.set()


def _saver(workdir, minutes: float = 1e-9, kept: int = 2):
  warnings = []
  keeper = checkpoints.Keeper(str(workdir), {}, kept=kept)
  return Saver(keeper, minutes, warnings.append), warnings


def _steps(workdir) -> list[str]:
  paths = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  return [os.path.basename(path) for path in paths]


def test_training_goes_on_while_a_state_is_written(tmp_path, disk):
  """It is a checkpoint once it is written, and the step after it finite."""
  saver, warnings = _saver(tmp_path)
  with saver:
    kept = saver.write(_state(3))
    assert float(kept.params["w"][0]) == 3.5
    assert disk.began.wait(timeout=60)
    assert not saver.is_due()  # The one before is not written.
    saver.confirm(2)
    saver.confirm(3)
    assert saver.keeper.latest is None and not _steps(tmp_path)
    disk.may_end.set()
    assert saver.latest() == str(tmp_path / checkpoints.FOLDER / "3")
    assert _steps(tmp_path) == ["3"]
    assert saver.is_due()
  assert not warnings and saver.trouble is None


def test_a_written_state_waits_for_the_step_after_it(tmp_path, disk):
  disk.may_end.set()
  saver, _ = _saver(tmp_path)
  with saver:
    saver.write(_state(3))
    saver.confirm(2)
    assert saver.latest() is None
    saver.write(_state(5))
    saver.confirm(4)
    assert saver.latest().endswith("3")
  assert _steps(tmp_path) == ["3"]
  assert not list(tmp_path.glob("**/*.tmp"))


def test_what_cannot_be_written_is_told_once_it_is_known(tmp_path, disk):
  """Training is not stopped; the next state that is written mends it."""
  saver, warnings = _saver(tmp_path)
  with saver:
    disk.full = True
    saver.write(_state(3))
    saver.confirm(3)
    assert not warnings
    disk.may_end.set()
    saver.finish()
    (line,) = warnings
    assert line.startswith("step 3 cannot be saved in ")
    assert line.endswith("(No space left on device); training goes on")
    assert saver.trouble in line and not _steps(tmp_path)
    disk.full = False
    saver.write(_state(4))
    saver.confirm(4)
    saver.finish()
    assert saver.trouble is None and _steps(tmp_path) == ["4"]


def test_a_run_that_cannot_be_saved_is_not_begun(tmp_path, disk):
  disk.full = True
  disk.may_end.set()
  saver, warnings = _saver(tmp_path)
  with saver, pytest.raises(UsageError, match="step 0 cannot be saved in .*No"):
    saver.begin(_state(0), last=False)
  assert not warnings


def test_leaving_waits_for_what_is_written(tmp_path, disk):
  """Also where an error ends the run."""
  saver, _ = _saver(tmp_path)
  threading.Timer(0.1, disk.may_end.set).start()
  with pytest.raises(ZeroDivisionError), saver:
    saver.write(_state(1))
    saver.confirm(1)
    raise ZeroDivisionError
  assert _steps(tmp_path) == ["1"]


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_so_many_are_kept(tmp_path, kept):
  saver, _ = _saver(tmp_path, minutes=0, kept=kept)
  with saver:
    for step in range(5):
      assert saver.is_due()
      saver.write(_state(step))
      saver.confirm(step)
  assert _steps(tmp_path) == ["4", "3", "2"][:kept]
