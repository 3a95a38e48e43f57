"""Two real processes tell each other values, and end together."""

import time

import numpy as np
import pytest
from running import run

from diffai_jax import processes
from diffai_jax.types import UsageError


def test_two_processes_tell_each_other_everything():
  """Values to the bit, errors, requests to stop; nothing of gloo's is told."""
  for result in run("talking.py", ["whole"]):
    assert result.code == 0, result
    assert result.out == ["done"], result
    assert not result.err, result


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_other(victim):
  """With one line, also while it waits in a collective; no abort of JAX's."""
  start = time.monotonic()
  results = run("talking.py", [f"killed{victim}"])
  assert time.monotonic() - start < 60
  assert results[victim].code == -9
  survivor = results[1 - victim]
  (line,) = survivor.err
  assert line.startswith(f"error: process {victim} of 2 (pid "), line
  assert "has ended; all others end, too; the same command goes on" in line
  assert survivor.code == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_an_error_of_one_process_ends_both(victim):
  results = run("talking.py", [f"fails{victim}"])
  assert [result.code for result in results] == [3, 3]
  own = "" if victim == 0 else "process 1 of 2: "
  for result in results:
    assert result.err == [f"error: {own}the disk is full"]


def test_an_error_of_both_is_told_once():
  first, second = run("talking.py", ["both1"])
  assert (first.code, second.code) == (4, 4)
  assert (first.err, second.err) == (["error: the same"], [])


def test_one_process_is_all_of_them():
  """Nothing is sent, and nothing has to be there."""
  assert (processes.index(), processes.count()) == (0, 1)
  assert processes.is_first() and processes.current() is None
  found = processes.gathered({"a": np.arange(3), "b": 2.5})
  np.testing.assert_array_equal(found["a"], [[0, 1, 2]])
  assert found["b"].shape == (1,)
  assert processes.agreed(3) == 3
  value = object()  # Not even JSON.
  assert processes.by_first(lambda: value) is value
  assert processes.together(lambda: value) is value
  assert processes.from_first(value) is value
  assert processes.share(7) == slice(0, 7)
  processes.connect("off")
  processes.disconnect()


@pytest.mark.parametrize("total", [0, 1, 5, 8, 1000])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_all_rows_once(monkeypatch, total, count):
  """In order, and none has two more than another."""
  monkeypatch.setattr(processes.exchange, "count", lambda: count)
  rows = []
  for index in range(count):
    monkeypatch.setattr(processes.exchange, "index", lambda: index)
    rows.append(list(range(total))[processes.share(total)])
  assert sum(rows, []) == list(range(total))
  sizes = [len(row) for row in rows]
  assert max(sizes) - min(sizes) <= 1


def test_one_process_stops_at_once():
  asked = iter([None, None, 15])
  stop = processes.Stop(lambda: next(asked), behind=4)
  assert [stop(), stop(), stop()] == [False, False, True]
  assert stop.signal == 15


def test_a_wrong_text_is_refused_before_anything_is_done():
  with pytest.raises(UsageError, match="expected auto, off or ADDRESS,N,ID"):
    processes.connect("yes")
