"""Certification by two processes: as one with as many devices has it.

They are real ones, started once for all tests here; what they do is in
`in_processes`.
"""

import os
import pathlib
import socket
import subprocess
import sys

import in_processes
import jax
import numpy as np
import pytest

from diffai_jax.storage.journal import Journal
from diffai_jax.verification import programs

_FEW, _MANY = in_processes.COUNTS
_PHASES = ("standard", "attack", "Box", "HBox")


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("share", [1, 2, 5])
@pytest.mark.parametrize("total", [1, 7, 12, 23])
def test_every_example_is_some_processs_own_once(processes, share, total):
  """In their order; what fills up a batch stands behind all of them."""
  found = []
  for start in range(0, total, processes * share):
    for process in range(processes):
      rows = programs.own_rows(start, share, total, process)
      assert rows.shape == (share,) and rows.max() < total
      found.extend(rows)
  np.testing.assert_array_equal(found[:total], np.arange(total))
  assert len(found) - total < processes * share
  assert set(found[total:]) <= {total - 1}


class _Stopped(Exception):
  pass


class _Stopping(Journal):
  """Of a process that is killed in the middle of the method."""

  def append(self, phase, *args):
    super().append(phase, *args)
    if phase == "Box":
      raise _Stopped


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[int, pathlib.Path]:
  """What two processes wrote, and what one with two devices did, by number."""
  folders = {n: tmp_path_factory.mktemp("processes") for n in (1, 2)}
  for folder in folders.values():
    _begin(folder / "begun.blocks")
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  started = [_start("off", folders[1], devices=2)]
  started += [_start(f"{address},2,{n}", folders[2]) for n in range(2)]
  said = [process.communicate(timeout=300)[0] for process in started]
  assert all(process.returncode == 0 for process in started), "".join(said)
  return folders


def _begin(path: pathlib.Path) -> None:
  """Begins a certification in this process, which has one device."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(in_processes, "Journal", _Stopping)
    with pytest.raises(_Stopped):
      in_processes.certify(_FEW, str(path), methods=("Box",))


def _start(spec: str, folder: pathlib.Path, devices: int = 1):
  flags = os.environ.get("XLA_FLAGS", "")
  if devices > 1:
    flags += f" --xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
      [sys.executable, in_processes.__file__, spec, str(folder)],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
      env=os.environ | {
          "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(sys.path),
          "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      },
  )


@pytest.fixture(scope="module")
def found(folders) -> list[dict[str, dict[str, np.ndarray]]]:
  """Of each of the two processes, what it found by case."""
  return [_read(folders[2] / f"{process}.npz") for process in range(2)]


@pytest.fixture(scope="module")
def alone(folders) -> dict[str, dict[str, np.ndarray]]:
  """What the one process found by case."""
  return _read(folders[1] / "0.npz")


def _read(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  cases = {}
  with np.load(path) as arrays:
    for name, array in arrays.items():
      case, _, name = name.partition(":")
      cases.setdefault(case, {})[name] = array
  return cases


def _assert_same(one: dict, other: dict, but: tuple = ("seconds",)) -> None:
  one, other = (
      {k: v for k, v in found.items() if not k.startswith(but)}
      for found in (one, other)
  )
  assert one.keys() == other.keys()
  for name, array in one.items():
    assert array.dtype == other[name].dtype, name
    assert array.tobytes() == other[name].tobytes(), name


def _blocks(path: pathlib.Path) -> dict[str, list[list[int]]]:
  """The rows of each block in a journal by phase; all of its lines are whole."""
  journal = Journal(str(path), "this")
  blocks = {
      phase: [block["rows"] for block in journal.blocks(phase)]
      for phase in _PHASES
  }
  journal.close()
  lines = path.read_bytes().splitlines()
  assert len(lines) == 1 + sum(map(len, blocks.values()))
  return {phase: rows for phase, rows in blocks.items() if rows}


@pytest.mark.parametrize(
    "case", [f"whole {_FEW}", f"whole {_MANY}", "skipping", "bounds"]
)
def test_two_find_what_one_finds(found, alone, case):
  """Bit for bit, where each device has the same images; and both have it all."""
  _assert_same(found[0][case], found[1][case], but=())
  _assert_same(found[0][case], alone[case])


def test_the_cases_decide_something(alone):
  """Some images are proved, some broken, and bounds are not all alike."""
  whole = alone[f"whole {_MANY}"]
  assert 0 < whole["verified/HBox"].sum() < _MANY
  assert len(set(whole["margins/HBox"])) == _MANY
  assert len(whole["wrong_points"]) == whole["falsified"].sum() > 0
  assert len(set(alone["bounds"]["largest"])) > 3


@pytest.mark.parametrize("count, block", [(_FEW, 4), (_MANY, 20)])
def test_the_journal_has_each_image_once(folders, found, count, block):
  """In blocks of both processes; the last one is shorter."""
  blocks = _blocks(folders[2] / f"whole {count}.blocks")
  rows = list(range(count))
  expected = [rows[n : n + block] for n in range(0, count, block)]
  assert blocks == {phase: expected for phase in _PHASES}


def test_one_goes_on_where_two_were(folders, found, tmp_path):
  """What their journal has is not measured again; a method goes on as it was."""
  path = tmp_path / "blocks"
  lines = (folders[2] / f"whole {_MANY}.blocks").read_bytes().splitlines(True)
  kept = 1 + 2 + 2 + 1  # The head, two phases, and a block of Box.
  path.write_bytes(b"".join(lines[:kept]) + lines[kept][:-5])
  resumed = in_processes.certify(_MANY, str(path))
  whole = found[0][f"whole {_MANY}"]
  _assert_same(resumed, whole, but=("seconds", "margins/HBox"))
  np.testing.assert_allclose(
      resumed["margins/HBox"], whole["margins/HBox"], atol=1e-5
  )
  blocks = _blocks(path)
  first, *rest = blocks["Box"]
  assert first == list(range(20)) and sum(rest, []) == [20, 21, 22]
  assert path.read_bytes().startswith(b"".join(lines[:kept]))


def test_two_go_on_where_one_was(folders, found, alone):
  """All processes know what process 0's journal has."""
  for case in (found[0]["resumed"], found[1]["resumed"], alone["resumed"]):
    _assert_same(case, found[0]["resumed"])
  blocks = _blocks(folders[2] / "begun.blocks")
  # Five images a device: what one process chose for its seven images.
  assert blocks["standard"] == [[0, 1, 2, 3, 4], [5, 6]]
  assert blocks["Box"] == [[0, 1, 2, 3, 4], [5, 6]]
  np.testing.assert_allclose(
      found[0]["resumed"]["margins/Box"],
      found[0][f"whole {_FEW}"]["margins/Box"], atol=1e-5,
  )


def test_what_fails_in_one_has_failed_in_all(folders, found):
  """In the middle of a method: the others go on, in both processes."""
  for one in found:
    failed = str(one["exhausted"]["failed/Box"])
    assert failed.startswith("process 1 of 2: ") and "RESOURCE_EXH" in failed
    assert "verified/Box" not in one["exhausted"]
    for name in ("verified/HBox", "margins/HBox", "attacked_correct"):
      np.testing.assert_array_equal(
          one["exhausted"][name], one[f"whole {_MANY}"][name]
      )
  blocks = _blocks(folders[2] / "exhausted.blocks")
  assert blocks["Box"] == [list(range(20))]
  assert sum(blocks["HBox"], []) == list(range(_MANY))


def test_what_cannot_be_compiled_in_one_may_be_asked_for_again(found):
  """Though the other process has its program already."""
  for one in found:
    failed = str(one["too large"]["failed/HSwitch"])
    assert failed == "process 1 of 2: too large"
    assert "failed/HSwitch" not in one["afterwards"]
    assert np.isfinite(one["afterwards"]["margins/HSwitch"]).all()


@pytest.mark.parametrize("case, errors", [
    ("mistake", (
        "UsageError: process 1 of 2: ValueError: mistake", "ValueError: mistake"
    )),
    ("arithmetic", (
        "UsageError: process 1 of 2: off by 2", "UsageError: off by 2"
    )),
    ("full disk", (
        "OSError: [Errno 28] No space left: 'blocks'",
        "UsageError: process 0 of 2: ",
    )),
])
def test_other_errors_end_all(found, case, errors):
  for one, error in zip(found, errors):
    assert list(one[case]) == ["error"]
    assert str(one[case]["error"]).startswith(error)


def test_the_smallest_batch_that_fits_is_everybodys(folders, found):
  """One image, where process 1 has no memory for more."""
  assert "verified/Box" in found[0]["little memory"]
  _assert_same(
      found[0]["little memory"], found[1]["little memory"], but=()
  )
  blocks = _blocks(folders[2] / "little.blocks")
  pairs = [[0, 1], [2, 3], [4, 5], [6, 7], [8]]
  assert blocks == {phase: pairs for phase in ("standard", "attack", "Box")}
