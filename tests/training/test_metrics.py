"""metrics.jsonl: an object a line, whatever becomes of the process."""

import errno
import json

import pytest

from diffai_jax.training import metrics
from diffai_jax.types import UsageError


def _write(workdir, first_step: int, rows: dict[int, dict]) -> None:
  with metrics.MetricsWriter(str(workdir), first_step) as writer:
    for step, values in rows.items():
      writer.write(step, values)


def _lines(workdir) -> list[dict]:
  """The file's lines, each of which must be JSON."""
  text = (workdir / metrics.FILE).read_text(encoding="utf-8")
  assert text == "" or text.endswith("\n")
  return [json.loads(line) for line in text.splitlines()]


def test_a_line_is_an_object(tmp_path):
  """Each line holds the step and the values, in the order of writing."""
  _write(tmp_path, 1, {1: {"loss": 2.5, "epoch": 0.1}, 9: {"loss": 0.1}})
  wanted = [{"step": 1, "loss": 2.5, "epoch": 0.1}, {"step": 9, "loss": 0.1}]
  assert _lines(tmp_path) == wanted
  assert metrics.read(str(tmp_path)) == wanted


def test_lines_are_on_disk_at_once(tmp_path):
  """What was written is there while the run still goes on, or if it dies."""
  with metrics.MetricsWriter(str(tmp_path), 1) as writer:
    writer.write(1, {"loss": 2.5})
    assert _lines(tmp_path) == [{"step": 1, "loss": 2.5}]


def test_events_for_tensorboard_exist(tmp_path):
  """The same values go to a TensorBoard event file."""
  _write(tmp_path, 1, {1: {"loss": 2.5}})
  (events,) = tmp_path.glob("events.out.tfevents.*")
  assert b"loss" in events.read_bytes()


def test_reading_no_file_gives_no_rows(tmp_path):
  """A folder without metrics is no error."""
  assert metrics.read(str(tmp_path)) == []


@pytest.mark.parametrize("first, kept", [(1, []), (2, [1]), (4, [1, 3]),
                                         (5, [1, 3]), (6, [1, 3, 5])])
def test_going_on_drops_later_steps(tmp_path, first, kept):
  """Steps that will be taken again leave no second line."""
  _write(tmp_path, 1, {step: {"loss": step / 8} for step in (1, 3, 5)})
  _write(tmp_path, first, {first: {"loss": 9.0}})
  wanted = [{"step": step, "loss": step / 8} for step in kept]
  assert _lines(tmp_path) == wanted + [{"step": first, "loss": 9.0}]


@pytest.mark.parametrize(
    "cut", ["{", '{"step": 3, "lo', '{"step": 3, "loss": 0.']
)
def test_a_line_cut_short_is_left_out(tmp_path, cut):
  """A kill in the middle of a line costs that line only, and no error."""
  _write(tmp_path, 1, {1: {"loss": 2.5}, 2: {"loss": 1.5}})
  with open(tmp_path / metrics.FILE, "a", encoding="utf-8") as lines:
    lines.write(cut)
  whole = [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]
  assert metrics.read(str(tmp_path))[:2] == whole
  _write(tmp_path, 3, {3: {"loss": 0.5}})
  assert _lines(tmp_path) == whole + [{"step": 3, "loss": 0.5}]


def test_zeros_after_a_power_cut_are_left_out(tmp_path):
  """A file system may leave a block of zero bytes at the end."""
  _write(tmp_path, 1, {1: {"loss": 2.5}})
  with open(tmp_path / metrics.FILE, "ab") as lines:
    lines.write(b"\0" * 100)
  assert metrics.read(str(tmp_path)) == [{"step": 1, "loss": 2.5}]


def test_values_come_back_exactly(tmp_path):
  """Floats are written so that they read back as the same floats."""
  value = 0.1 + 0.2
  _write(tmp_path, 1, {1: {"loss": value, "bound": 1.7e308}})
  (row,) = metrics.read(str(tmp_path))
  assert row == {"step": 1, "loss": value, "bound": 1.7e308}


def test_no_temporary_file_stays(tmp_path):
  """The folder holds the lines and the events, nothing else."""
  _write(tmp_path, 1, {1: {"loss": 2.5}})
  _write(tmp_path, 2, {2: {"loss": 1.5}})
  names = {path.name.split(".")[0] for path in tmp_path.iterdir()}
  assert names == {"metrics", "events"}


@pytest.mark.parametrize("line", [
    b"\xff\xfe", b"3", b"[]", b"null", b"{}", b'{"step": "2", "loss": 1}',
    b'{"step": 2, "loss": "1"}', b'{"step": 1, "loss": 9}', b"[" * 100_000,
    b'{"step": -1}', b"",
])
def test_lines_that_are_no_metrics_do_not_block(tmp_path, line):
  """They are dropped, with one warning, and the file is kept as it was."""
  _write(tmp_path, 1, {1: {"loss": 2.5}, 3: {"loss": 1.5}})
  path = tmp_path / metrics.FILE
  first, second = path.read_bytes().splitlines(keepends=True)
  damaged = first + line + b"\n" + second
  path.write_bytes(damaged)
  whole = [{"step": 1, "loss": 2.5}, {"step": 3, "loss": 1.5}]
  assert metrics.read(str(tmp_path)) == whole
  told = []
  with metrics.MetricsWriter(str(tmp_path), 4, told.append):
    pass
  assert _lines(tmp_path) == whole
  assert len(told) == 1 and "1 lines" in told[0]
  assert (tmp_path / metrics.DAMAGED_FILE).read_bytes() == damaged
  with metrics.MetricsWriter(str(tmp_path), 4, told.append):
    pass
  assert len(told) == 1


def test_a_line_cut_short_is_no_damage(tmp_path):
  """A kill does that: no warning."""
  _write(tmp_path, 1, {1: {"loss": 2.5}})
  with open(tmp_path / metrics.FILE, "ab") as lines:
    lines.write(b'{"step": 3, "lo')
  told = []
  with metrics.MetricsWriter(str(tmp_path), 2, told.append):
    pass
  assert not told


def test_a_folder_in_its_place_is_one_line(tmp_path):
  (tmp_path / metrics.FILE).mkdir()
  for call in (metrics.read, lambda path: metrics.MetricsWriter(path, 1)):
    with pytest.raises(UsageError, match="metrics.jsonl.*Is a directory"):
      call(str(tmp_path))


class _FullDisk:
  """An open file on a disk that is full after some bytes, until it is not."""

  def __init__(self, file, room: int):
    self._file, self.room = file, room

  def write(self, data: bytes) -> int:
    if not self.room:
      raise OSError(errno.ENOSPC, "No space left on device")
    count = self._file.write(data[: self.room])
    self.room -= count
    return count

  def fileno(self) -> int:
    return self._file.fileno()

  def close(self) -> None:
    self._file.close()


def test_a_full_disk_costs_no_line(tmp_path):
  """One warning; what could not be written is written once there is room."""
  told = []
  with metrics.MetricsWriter(str(tmp_path), 1, told.append) as writer:
    writer.write(1, {"loss": 2.5})
    disk = _FullDisk(writer._lines._file, room=5)
    writer._lines._file = disk
    writer.write(2, {"loss": 1.5})
    writer.write(3, {"loss": 0.5})
    assert _lines(tmp_path) == [{"step": 1, "loss": 2.5}]
    assert len(told) == 1 and "No space left" in told[0]
    disk.room = 10_000
    writer.write(4, {"loss": 0.25})
    assert [row["step"] for row in _lines(tmp_path)] == [1, 2, 3, 4]
    disk.room = 0
    writer.write(5, {"loss": 0.25})
    disk.room = 10_000
  assert [row["step"] for row in _lines(tmp_path)] == [1, 2, 3, 4, 5]
  assert len(told) == 2


def test_events_that_cannot_be_written_do_not_matter(tmp_path, monkeypatch):
  """The lines go on without them; one warning."""
  told = []
  with metrics.MetricsWriter(str(tmp_path), 1, told.append) as writer:

    def full(**values):
      raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._events, "add", full)
    writer.write(1, {"loss": 2.5})
    writer.write(2, {"loss": 1.5})
  assert [row["step"] for row in _lines(tmp_path)] == [1, 2]
  assert len(told) == 1 and "TensorBoard" in told[0]
