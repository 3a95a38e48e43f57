"""Checkpoints: what is saved comes back, bit for bit, or an error says why."""

import dataclasses
import functools
import gc
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import pytest
from weights import layers

from diffai_jax.networks import ffnn
from diffai_jax.training import checkpoints, optimizers
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import UsageError

_ROOT = pathlib.Path(__file__).parents[2]


# A restore that fails leaves coroutines behind that complain when collected;
# tests/test_main.py checks that a user does not see them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def _collect_here():
  """What a test leaves behind is collected before the next one."""
  yield
  gc.collect()


@functools.cache
def _shapes(hidden: tuple[int, ...]) -> TrainState:
  optimizer = optimizers.create(config_dict.ConfigDict({
      "name": "adam", "learning_rate": 0.1, "milestones": (), "decay": 0.1,
      "momentum": 0.9, "l2": 0.0, "clip_norm": 1.0,
  }), lambda step: step)
  network = ffnn(3, (0.4,), (0.5,), hidden=hidden)
  return jax.eval_shape(
      lambda: create_state(network, optimizer, (2, 2, 1), seed=0)
  )


def _state(step: int = 0, seed: int = 0, hidden=(6, 5)) -> TrainState:
  """A state whose every array, the optimiser's too, is random."""
  random = np.random.default_rng(seed)
  state = jax.tree.map(
      lambda x: jnp.asarray((99 * random.normal(size=x.shape)).astype(x.dtype)),
      _shapes(hidden),
  )
  return dataclasses.replace(state, step=jnp.asarray(step, jnp.int32))


def _assert_same(found: TrainState, wanted: TrainState):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    assert a.dtype == b.dtype
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob("*")) if path.is_file()
  }


def _save(workdir, *states: TrainState) -> None:
  with checkpoints.open_manager(str(workdir)) as manager:
    for state in states:
      checkpoints.save(manager, state)


def _restore(workdir, like: TrainState, read_only=False) -> TrainState | None:
  with checkpoints.open_manager(str(workdir), read_only) as manager:
    return checkpoints.restore(manager, like)


def test_round_trip_is_exact(tmp_path):
  """Every bit of step, weights and optimiser comes back, to either manager."""
  state = _state(step=7)
  _save(tmp_path, state)
  like = _state(step=0, seed=1)
  _assert_same(_restore(tmp_path, like), state)
  _assert_same(_restore(tmp_path, like, read_only=True), state)


def test_special_values_survive(tmp_path):
  """Infinities, NaN, -0 and the smallest numbers are not touched."""
  state = _state(step=1)
  kernel = layers(state.params)[0]["kernel"]
  odd = np.resize(np.float32([np.inf, -np.inf, np.nan, -0.0, 1e-45, 3e38]),
                  kernel.shape)
  layers(state.params)[0]["kernel"] = jnp.asarray(odd)
  _save(tmp_path, state)
  _assert_same(_restore(tmp_path, _state()), state)


def test_none_where_there_is_none(tmp_path):
  """An empty work folder has no checkpoint, and reading one makes none."""
  with checkpoints.open_manager(str(tmp_path)) as manager:
    assert checkpoints.restore(manager, _state()) is None
    assert checkpoints.latest_path(manager) is None


def test_reading_writes_nothing(tmp_path):
  """A read-only manager leaves the folder as it is, to the byte."""
  _save(tmp_path, _state(step=3))
  before = _files(tmp_path)
  assert _restore(tmp_path, _state(), read_only=True) is not None
  assert _files(tmp_path) == before


def test_the_newest_two_are_kept(tmp_path):
  """Older ones go; the latest is what is restored, and where it says."""
  states = [_state(step=step, seed=step) for step in (1, 4, 6, 9)]
  with checkpoints.open_manager(str(tmp_path)) as manager:
    for state in states:
      checkpoints.save(manager, state)
    latest = checkpoints.latest_path(manager)
    _assert_same(checkpoints.restore(manager, _state()), states[-1])
  folder = tmp_path / checkpoints.FOLDER
  assert {path.name for path in folder.iterdir()} == {"6", "9"}
  assert latest == str(folder / "9")


def test_a_step_is_saved_once(tmp_path):
  """Saving a step again, also by another manager, keeps what is there."""
  first, again = _state(step=2, seed=0), _state(step=2, seed=1)
  _save(tmp_path, first, again)
  _save(tmp_path, again)
  _assert_same(_restore(tmp_path, _state()), first)


def test_a_cut_short_write_is_no_checkpoint(tmp_path):
  """What Orbax had not renamed into place yet does not count."""
  state = _state(step=5)
  _save(tmp_path, state)
  folder = tmp_path / checkpoints.FOLDER
  partial = folder / "9.orbax-checkpoint-tmp-123"
  shutil.copytree(folder / "5", partial)
  (partial / "_CHECKPOINT_METADATA").unlink()
  _assert_same(_restore(tmp_path, _state()), state)


def _empty_files(folder: pathlib.Path):
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"")


def _remove_array_data(folder: pathlib.Path):
  shutil.rmtree(folder / "default")


def _cut_array_data(folder: pathlib.Path):
  for path in folder.rglob("d/*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    "damage", [_empty_files, _remove_array_data, _cut_array_data]
)
def test_a_broken_checkpoint_is_named(tmp_path, damage):
  """The error gives the folder to remove; the one before it still works."""
  good = _state(step=5)
  _save(tmp_path, good, _state(step=8, seed=1))
  folder = tmp_path / checkpoints.FOLDER / "8"
  damage(folder)
  with pytest.raises(UsageError) as caught:
    _restore(tmp_path, _state())
  assert str(folder) in str(caught.value)
  assert "\n" not in str(caught.value)
  shutil.rmtree(folder)
  _assert_same(_restore(tmp_path, _state()), good)


@pytest.mark.parametrize(
    "like", [{"hidden": (6, 4)}, {"hidden": (6,)}, {"hidden": (6, 5, 4)}]
)
def test_another_network_is_refused(tmp_path, like):
  """Other shapes, fewer or more layers: an error, and no byte is changed."""
  _save(tmp_path, _state(step=5))
  before = _files(tmp_path)
  with pytest.raises(UsageError) as caught:
    _restore(tmp_path, _state(**like), read_only=True)
  assert str(tmp_path / checkpoints.FOLDER / "5") in str(caught.value)
  assert "\n" not in str(caught.value)
  assert _files(tmp_path) == before


def test_another_network_is_no_broken_checkpoint(tmp_path):
  """A checkpoint that is whole must not be called to be removed."""
  _save(tmp_path, _state(step=5))
  with pytest.raises(UsageError) as caught:
    _restore(tmp_path, _state(hidden=(6, 4)))
  assert "remove" not in str(caught.value)


_MORE_DEVICES = """
    import sys
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import numpy as np
    import test_checkpoints
    from diffai_jax.training import checkpoints

    mesh = Mesh(np.array(jax.devices()), ("devices",))
    state = jax.device_put(
        test_checkpoints._state(step=5), NamedSharding(mesh, PartitionSpec())
    )
    with checkpoints.open_manager(sys.argv[1]) as manager:
      checkpoints.save(manager, state)
    print(len(jax.devices()))
"""


def test_read_on_fewer_devices_than_written(tmp_path):
  """Trained on several devices, certified on one: nothing but bits counts."""
  count = jax.local_device_count() + 1
  here = pathlib.Path(__file__).parent
  path = os.pathsep.join(filter(None, (
      str(here), str(here.parent), str(_ROOT), os.environ.get("PYTHONPATH")
  )))
  run = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(_MORE_DEVICES), str(tmp_path)],
      env=os.environ | {
          "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
          "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
      },
      capture_output=True, text=True, timeout=300, check=False,
  )
  assert run.stdout == f"{count}\n", run.stderr
  _assert_same(_restore(tmp_path, _state()), _state(step=5))
