"""Checkpoints: what is saved comes back, bit for bit, or an error says why."""

import dataclasses
import errno
import functools
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
from diffai_jax.storage import files
from diffai_jax.training import array_store, checkpoints, optimizers
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import UsageError

_ROOT = pathlib.Path(__file__).parents[2]


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


_CONFIG = {"network": "FFNN", "seed": 3, "epochs": 2.0}


def _keeper(workdir, good: str | None = None) -> checkpoints.Keeper:
  return checkpoints.Keeper(str(workdir), _CONFIG, good)


def _save(workdir, *states: TrainState) -> None:
  with _keeper(workdir) as keeper:
    for state in states:
      keeper.write(state)
      keeper.confirm(int(state.step))


def _find(workdir, like: TrainState, **options) -> checkpoints.Restored | None:
  folder = os.path.join(workdir, checkpoints.FOLDER)
  return checkpoints.restore(checkpoints.steps_of(folder), like, **options)


def _restore(workdir, like: TrainState) -> TrainState:
  found = _find(workdir, like)
  assert found.warning is None
  return found.state


def test_round_trip_is_exact(tmp_path):
  """Every bit of step, weights and optimiser comes back, and the config."""
  state = _state(step=7)
  _save(tmp_path, state)
  found = _find(tmp_path, _state(step=0, seed=1))
  _assert_same(found.state, state)
  assert found.path == str(tmp_path / checkpoints.FOLDER / "7")
  assert found.config == _CONFIG == checkpoints.stored_config(str(tmp_path))


def test_arrays_on_the_host_are_saved_alike(tmp_path):
  """What training copies from the devices is as good as the state itself."""
  _save(tmp_path, jax.tree.map(np.array, _state(step=7)))
  _assert_same(_restore(tmp_path, _state()), _state(step=7))


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
  assert _find(tmp_path, _state()) is None
  assert checkpoints.stored_config(str(tmp_path)) is None
  assert _keeper(tmp_path).latest is None
  assert not list(tmp_path.iterdir())


def test_reading_writes_nothing(tmp_path):
  """It leaves the folder as it is, to the byte."""
  _save(tmp_path, _state(step=3))
  before = _files(tmp_path)
  assert _find(tmp_path, _state()) is not None
  assert _files(tmp_path) == before


@pytest.mark.parametrize("name", [
    "lr[0.1]", "a*b?c", "back\\slash", "two words", "größe 网", "#%{x}!'$&;\"",
    "[", "-x",
])
def test_any_name_of_a_folder_will_do(tmp_path, name):
  """A library that takes the path for a pattern would find nothing."""
  workdir = tmp_path / name / "run"
  state = _state(step=3)
  _save(workdir, state)
  _assert_same(_restore(workdir, _state()), state)
  (found,) = (workdir / checkpoints.FOLDER).iterdir()
  assert checkpoints.resolve(str(workdir)) == [str(found)]


def test_a_state_is_no_checkpoint_until_it_is_confirmed(tmp_path):
  """One that cannot go on leaves nothing behind, nor does a kill."""
  folder = tmp_path / checkpoints.FOLDER
  with _keeper(tmp_path) as keeper:
    keeper.write(_state(step=4))
    assert _find(tmp_path, _state()) is None
    keeper.write(_state(step=6, seed=1))
    keeper.confirm(5)
    assert keeper.latest == str(folder / "4")
    _assert_same(_restore(tmp_path, _state()), _state(step=4))
  assert {path.name for path in folder.iterdir()} == {"4"}


def test_the_newest_two_are_kept(tmp_path):
  """Older ones go; the latest is what is restored, and where it says."""
  states = [_state(step=step, seed=step) for step in (1, 4, 6, 9)]
  with _keeper(tmp_path) as keeper:
    for state in states:
      keeper.write(state)
      keeper.confirm(int(state.step))
  folder = tmp_path / checkpoints.FOLDER
  assert keeper.latest == str(folder / "9")
  _assert_same(_restore(tmp_path, _state()), states[-1])
  assert {path.name for path in folder.iterdir()} == {"6", "9"}


def test_damaged_ones_do_not_push_out_good_ones(tmp_path):
  """Two that are whole stay, whatever else is there."""
  _save(tmp_path, _state(step=2), _state(step=5))
  folder = tmp_path / checkpoints.FOLDER
  _remove_array_data(folder / "5")
  found = _find(tmp_path, _state())
  with _keeper(tmp_path, found.path) as keeper:
    keeper.write(_state(step=4))
    keeper.confirm(4)
    assert {path.name for path in folder.iterdir()} == {"2", "4"}
    keeper.write(_state(step=5))
    keeper.confirm(5)
  assert {path.name for path in folder.iterdir()} == {"4", "5"}
  _assert_same(_restore(tmp_path, _state()), _state(step=5))


def test_a_damaged_one_is_replaced_by_its_own_step(tmp_path):
  """A run that takes the same steps again saves them again."""
  _save(tmp_path, _state(step=5))
  _remove_array_data(tmp_path / checkpoints.FOLDER / "5")
  _save(tmp_path, _state(step=5))
  _assert_same(_restore(tmp_path, _state()), _state(step=5))
  assert [p.name for p in (tmp_path / checkpoints.FOLDER).iterdir()] == ["5"]


def test_a_cut_short_write_is_no_checkpoint(tmp_path):
  """What had not got its name yet does not count."""
  state = _state(step=5)
  _save(tmp_path, state)
  folder = tmp_path / checkpoints.FOLDER
  for name in ("9.tmp", "9.orbax-checkpoint-tmp-123"):
    shutil.copytree(folder / "5", folder / name)
  _assert_same(_restore(tmp_path, _state()), state)


def _empty_files(folder: pathlib.Path):
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"")


def _remove_array_data(folder: pathlib.Path):
  shutil.rmtree(folder / "arrays")


def _cut_array_data(folder: pathlib.Path):
  for path in folder.rglob("d/*"):
    path.write_bytes(path.read_bytes()[:-20])


def _flip_a_bit_of_the_manifest(folder: pathlib.Path):
  path = folder / "checkpoint.json"
  path.write_text(path.read_text().replace('"seed": 3', '"seed": 2'))


def _replace_array_data(folder: pathlib.Path):
  """With those of another state, whole in itself."""
  _remove_array_data(folder)
  shutil.copytree(folder.parent / "5" / "arrays", folder / "arrays")


@pytest.mark.parametrize("damage", [
    _empty_files, _remove_array_data, _cut_array_data, shutil.rmtree,
    _flip_a_bit_of_the_manifest, _replace_array_data,
])
def test_the_one_before_a_damaged_one_is_used(tmp_path, damage):
  """One line names both; without one before, one line says so."""
  good = _state(step=5)
  _save(tmp_path, good, _state(step=8, seed=1))
  folder = tmp_path / checkpoints.FOLDER
  damage(folder / "8")
  (folder / "8").mkdir(exist_ok=True)
  found = _find(tmp_path, _state())
  _assert_same(found.state, good)
  assert str(folder / "8") in found.warning
  assert str(folder / "5") in found.warning
  assert "\n" not in found.warning
  shutil.rmtree(folder / "5")
  with pytest.raises(UsageError, match="no checkpoint can be used") as caught:
    _find(tmp_path, _state())
  assert str(folder / "8") in str(caught.value)
  assert "\n" not in str(caught.value)
  assert "another network" not in str(caught.value)


def test_every_flipped_bit_is_noticed(tmp_path):
  """In each file, at its begin, its middle and its end."""
  good, newer = _state(step=5), _state(step=8, seed=1)
  _save(tmp_path, good, newer)
  folder = tmp_path / checkpoints.FOLDER / "8"
  paths = [path for path in folder.rglob("*") if path.is_file()]
  assert len(paths) > 5
  for path in paths:
    content = path.read_bytes()
    for place in {0, len(content) // 2, len(content) - 1}:
      if 0 <= place < len(content):
        flipped = bytearray(content)
        flipped[place] ^= 4
        path.write_bytes(flipped)
        found = _find(tmp_path, _state())
        # Between the tokens of JSON some bytes mean nothing.
        wanted = good if found.warning else newer
        assert found.warning or path.name == "checkpoint.json", path
        _assert_same(found.state, wanted)
    path.write_bytes(content)


def test_arrays_that_orbax_reads_otherwise_are_noticed(tmp_path, monkeypatch):
  """The digest is of the arrays that training had, not only of files."""
  _save(tmp_path, _state(step=5))
  read = array_store.read

  def flipped(*args):
    arrays = read(*args)
    arrays[3] = arrays[3] + 1
    return arrays

  monkeypatch.setattr(array_store, "read", flipped)
  with pytest.raises(UsageError, match="not those that were saved"):
    _find(tmp_path, _state())


@pytest.mark.parametrize("like, text", [
    ({"hidden": (6, 4)}, "bias is float32[5], expected float32[4]"),
    ({"hidden": (6,)}, "network"), ({"hidden": (6, 5, 4)}, "is missing"),
    ({"hidden": (5, 6)}, "expected float32[5]"),
])
def test_another_network_is_refused(tmp_path, like, text):
  """Other shapes, fewer or more layers, and no byte is changed.

  An older checkpoint is not looked for: the newest one is whole.
  """
  _save(tmp_path, _state(step=2), _state(step=5))
  before = _files(tmp_path)
  with pytest.raises(UsageError, match="is of another network") as caught:
    _find(tmp_path, _state(**like))
  assert str(tmp_path / checkpoints.FOLDER / "5") in str(caught.value)
  assert text in str(caught.value)
  assert "\n" not in str(caught.value)
  assert _files(tmp_path) == before


def _swapped(state: TrainState) -> TrainState:
  """The same arrays under other names: a network of the same shapes."""
  ((outer, parts),) = state.params.items()
  turned = dict(zip(parts, reversed(parts.values())))
  return dataclasses.replace(state, params={outer: turned})


def test_the_same_shapes_at_other_places_are_another_network(tmp_path):
  """Sorted shapes say nothing about where they belong."""
  state = _state(step=5, hidden=(6, 5))
  _save(tmp_path, state)
  assert sorted(x.shape for x in jax.tree.leaves(_swapped(state))) == sorted(
      x.shape for x in jax.tree.leaves(state)
  )
  with pytest.raises(UsageError, match="is of another network: params/"):
    _find(tmp_path, _swapped(state))


def test_weights_do_without_the_optimizer(tmp_path):
  """Other runs and certification take them from any run of the network."""
  state = _state(step=5)
  _save(tmp_path, state)
  like = dataclasses.replace(_state(seed=1), optimizer={"trace": jnp.ones(3)})
  with pytest.raises(UsageError, match="is of another optimizer"):
    _find(tmp_path, like)
  found = _find(tmp_path, like, weights_only=True).state
  _assert_same(found, dataclasses.replace(state, optimizer=like.optimizer))
  same = _find(tmp_path, _state(seed=1), weights_only=True).state
  _assert_same(
      same, dataclasses.replace(state, optimizer=_state(seed=1).optimizer)
  )


def test_every_name_of_a_checkpoint_is_taken(tmp_path, monkeypatch):
  """The run, its checkpoints, one of them; relative, with ~, with a slash."""
  _save(tmp_path / "run", _state(step=2), _state(step=5))
  folder = tmp_path / "run" / checkpoints.FOLDER
  both = [str(folder / "5"), str(folder / "2")]
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("HOME", str(tmp_path))
  for path in (tmp_path / "run", folder, "run", "run/", "~/run",
               "run/checkpoints/"):
    assert checkpoints.resolve(str(path)) == both
    assert checkpoints.run_of(str(path)) == str(tmp_path / "run")
  for path in (folder / "2", "run/checkpoints/2/", "~/run/checkpoints/2"):
    assert checkpoints.resolve(str(path)) == [str(folder / "2")]
    assert checkpoints.run_of(str(path)) == str(tmp_path / "run")
  shutil.copytree(folder / "2", tmp_path / "best")
  assert checkpoints.resolve("best") == [str(tmp_path / "best")]
  for path, text in (("nowhere", "is no folder"), (".", "has no checkpoint"),
                     ("run/checkpoints/7", "is no folder")):
    with pytest.raises(UsageError, match=text):
      checkpoints.resolve(path)


def test_what_cannot_be_written_says_why_and_leaves_nothing(
    tmp_path, monkeypatch
):
  """A full disk, or a file where a folder should be; then it goes on."""

  def full(folder, size):
    raise OSError(errno.ENOSPC, "No space left on device")

  folder = tmp_path / checkpoints.FOLDER
  folder.write_text("")
  with _keeper(tmp_path) as keeper:
    with pytest.raises(checkpoints.CannotSave, match="File exists"):
      keeper.write(_state(step=1))
    folder.unlink()
    with monkeypatch.context() as patch:
      patch.setattr(files, "require_room", full)
      with pytest.raises(checkpoints.CannotSave) as caught:
        keeper.write(_state(step=2))
    assert str(caught.value) == "No space left on device"
    assert not list(folder.iterdir())
    keeper.confirm(2)
    keeper.write(_state(step=3))
    keeper.confirm(3)
  _assert_same(_restore(tmp_path, _state()), _state(step=3))


def test_a_first_checkpoint_that_does_not_come_back_is_refused(
    tmp_path, monkeypatch
):
  """It is read at once, and not after the first hour."""
  monkeypatch.setattr(
      array_store, "read", lambda folder, like: [x * 0 for x in like]
  )
  with _keeper(tmp_path) as keeper:
    with pytest.raises(checkpoints.CannotSave, match="not those that were"):
      keeper.write(_state(step=1))
  assert not list((tmp_path / checkpoints.FOLDER).iterdir())


@pytest.fixture
def small_disk(tmp_path):
  """A file system of 64 KiB."""
  path = tmp_path / "small"
  path.mkdir()
  done = subprocess.run(
      ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)],
      capture_output=True, check=False,
  ) if sys.platform == "linux" else None
  if done is None or done.returncode:
    pytest.skip("only Linux's root can mount a small file system")
  yield path
  subprocess.run(["umount", str(path)], check=True)


def test_a_small_disk_is_full_in_one_line(small_disk):
  """As `test_what_cannot_be_written...`, with a disk that is really full."""
  with _keeper(small_disk) as keeper:
    with pytest.raises(checkpoints.CannotSave, match="^No space left on dev"):
      keeper.write(_state(step=2))
  assert not list((small_disk / checkpoints.FOLDER).iterdir())


_MORE_DEVICES = """
    import sys
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import numpy as np
    import test_checkpoints

    mesh = Mesh(np.array(jax.devices()), ("devices",))
    state = jax.device_put(
        test_checkpoints._state(step=5), NamedSharding(mesh, PartitionSpec())
    )
    test_checkpoints._save(sys.argv[1], state)
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
          "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')}"
                       f" --xla_force_host_platform_device_count={count}",
          "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
      },
      capture_output=True, text=True, timeout=300, check=False,
  )
  assert run.stdout == f"{count}\n", run.stderr
  _assert_same(_restore(tmp_path, _state()), _state(step=5))
