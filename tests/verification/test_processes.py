"""Certification by two processes: what one finds, and failures in one of them.

They are real ones, started once for all tests here; what they do is in
`in_processes`. The one that they are compared with is this process.
"""

import os
import pathlib
import socket
import subprocess
import sys

import in_processes
import numpy as np
import pytest

from diffai_jax.storage.journal import Journal
from diffai_jax.verification import programs
from diffai_jax.verification.blocks import own_rows
from diffai_jax.verification.program_cache import LastUsed

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
      rows = own_rows(start, share, total, process)
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
def started(tmp_path_factory):
  """The two processes, and the folder that they write to."""
  folder = tmp_path_factory.mktemp("two")
  with pytest.MonkeyPatch.context() as patch:
    # Begun by one process, which took the images one by one.
    _set_sizes(patch, {_FEW: 1})
    patch.setattr(in_processes, "Journal", _Stopping)
    path = str(folder / "begun.blocks")
    with pytest.raises(_Stopped):
      in_processes.certify(_FEW, path, methods=("Box",))
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  both = [
      subprocess.Popen(
          [sys.executable, in_processes.__file__, f"{address},2,{n}", folder],
          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      )
      for n in range(2)
  ]
  yield both, folder
  for process in both:
    process.kill()
    process.wait()


def _set_sizes(patch, sizes: dict[int, int]) -> None:
  """How many images this process's device takes at a time, of how many."""
  patch.setattr(programs, "_SIZES", LastUsed())
  patch.setattr(programs, "_fitting", lambda *args: sizes[args[-1]])


@pytest.fixture(scope="module")
def alone(started, tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
  """What this process finds, by case; its device has as many images at a time."""
  with pytest.MonkeyPatch.context() as patch:
    _set_sizes(patch, in_processes.SIZES)
    return in_processes.cases(str(tmp_path_factory.mktemp("one")))


@pytest.fixture(scope="module")
def folder(started, alone) -> pathlib.Path:
  """What the two wrote, once they have ended."""
  both, folder = started
  said = [process.communicate(timeout=300)[0] for process in both]
  assert all(process.returncode == 0 for process in both), "".join(said)
  return folder


@pytest.fixture(scope="module")
def found(folder) -> list[dict[str, dict[str, np.ndarray]]]:
  """Of each of the two processes, what it found by case."""
  return [_read(folder / f"{process}.npz") for process in range(2)]


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
def test_the_journal_has_each_image_once(folder, found, count, block):
  """In blocks of both processes; the last one is shorter."""
  blocks = _blocks(folder / f"whole {count}.blocks")
  rows = list(range(count))
  expected = [rows[n : n + block] for n in range(0, count, block)]
  assert blocks == {phase: expected for phase in _PHASES}
  assert not _blocks(folder / f"whole {count}.blocks.1")


def test_one_goes_on_where_two_were(folder, found, tmp_path):
  """What their journal has is not measured again; the rest has their batches."""
  path = tmp_path / "blocks"
  lines = (folder / f"whole {_MANY}.blocks").read_bytes().splitlines(True)
  kept = 1 + 2 + 2 + 1  # The head, two phases, and a block of Box.
  path.write_bytes(b"".join(lines[:kept]) + lines[kept][:-5])
  resumed = in_processes.certify(_MANY, str(path), methods=("Box",))
  for name, array in resumed.items():
    if not name.startswith("seconds"):
      assert array.tobytes() == found[0][f"whole {_MANY}"][name].tobytes()
  assert _blocks(path)["Box"] == [list(range(20)), [20, 21, 22]]
  assert path.read_bytes().startswith(b"".join(lines[:kept]))


def test_two_go_on_where_one_was(folder, found):
  """All processes know what process 0's journal has, and take its batches."""
  _assert_same(found[0]["resumed"], found[1]["resumed"], but=())
  blocks = _blocks(folder / "begun.blocks")
  assert blocks["standard"] == blocks["attack"] == [[n] for n in range(_FEW)]
  assert blocks["Box"] == [[0], [1, 2], [3, 4], [5, 6]]
  whole = found[0][f"whole {_FEW}"]
  for name, array in found[0]["resumed"].items():
    if not name.startswith("seconds"):
      np.testing.assert_allclose(array, whole[name], atol=1e-5)


def test_what_fails_in_one_has_failed_in_all(folder, found):
  """In the middle of a method: the others go on, in both processes."""
  for one in found:
    failed = str(one["exhausted"]["failed/Box"])
    assert failed.startswith("process 1 of 2: ") and "RESOURCE_EXH" in failed
    assert "verified/Box" not in one["exhausted"]
    for name in ("verified/HBox", "margins/HBox", "attacked_correct"):
      np.testing.assert_array_equal(
          one["exhausted"][name], one[f"whole {_MANY}"][name]
      )
  blocks = _blocks(folder / "exhausted.blocks")
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


def test_the_smallest_batch_that_fits_is_everybodys(folder, found):
  """One image, where process 1 has no memory for more."""
  assert "verified/Box" in found[0]["little memory"]
  _assert_same(
      found[0]["little memory"], found[1]["little memory"], but=()
  )
  blocks = _blocks(folder / "little.blocks")
  pairs = [[0, 1], [2, 3], [4, 5], [6]]
  assert blocks == {phase: pairs for phase in ("standard", "attack", "Box")}
