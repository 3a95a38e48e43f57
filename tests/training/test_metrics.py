"""metrics.jsonl: an object a line, whatever becomes of the process."""

import json

import pytest

from diffai_jax.training import metrics


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
