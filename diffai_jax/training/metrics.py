"""Metrics of training: a JSON object a line, and TensorBoard events."""

from collections.abc import Callable
import contextlib
import json
import os
import socket
import tempfile
import time

from diffai_jax.storage import files, lines, store
from diffai_jax.types import UsageError

try:
  from tensorboardX import summary
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  from tensorboardX.record_writer import RecordWriter
except ImportError:  # Without it there are the lines alone.
  RecordWriter = None

FILE = "metrics.jsonl"
# Where a file with lines that are no metrics is kept, as it was.
DAMAGED_FILE = "metrics.damaged.jsonl"
_SECONDS_BETWEEN_FLUSHES = 30.0  # Of events: each waits for the disk.


class MetricsWriter:
  """Appends to `metrics.jsonl` and to TensorBoard events in a work folder.

  A line that cannot be written (the disk is full) is warned of, kept, and
  written with the next one. To an object store both are written now and then,
  and when `flush` is called. Usable as a context manager, which closes both.

  Args:
    workdir: the work folder.
    first_step: lines of this step and later ones are dropped: a run that was
      killed after its last checkpoint takes those steps again.
    warn: is told, in one line, of what went wrong.

  Raises:
    UsageError: if the files cannot be read or made.
  """

  def __init__(
      self, workdir: str, first_step: int,
      warn: Callable[[str], None] = lambda text: None,
  ):
    self._path = os.path.join(workdir, FILE)
    self._warn = warn
    self._unwritten = b""
    self._warned = False
    self._events = None
    rows, bad = _parse(workdir)
    try:
      if bad:
        kept = os.path.join(workdir, DAMAGED_FILE)
        store.copy(self._path, kept)
        warn(
            f"{self._path}: {bad} lines are no metrics and were dropped; the"
            f" file as it was is {kept}"
        )
      with files.replacing(self._path) as file:
        file.writelines(
            json.dumps(row) + "\n" for row in rows if row["step"] < first_step
        )
      self._lines = lines.opened(self._path)
    except OSError as error:
      raise UsageError(
          f"cannot write {self._path} ({files.reason(error)})"
      ) from None
    if RecordWriter is None:
      warn("no TensorBoard events are written: tensorboardX is not installed")
      return
    with self._events_may_fail():
      self._events = _Events(workdir)
      if first_step > 1:  # TensorBoard drops the steps that are taken again.
        start = SessionLog(status=SessionLog.START)
        self._events.add(step=first_step, session_log=start)

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the values of one moment of training."""
    line = json.dumps({"step": step, **values}) + "\n"
    self._append(self._unwritten + line.encode())
    with self._events_may_fail():
      if self._events is not None:
        for name, value in values.items():
          self._events.add(step=step, summary=summary.scalar(name, value))

  def _append(self, data: bytes) -> None:
    """Appends all of it to the lines, or nothing, and keeps it."""
    try:
      self._lines.append(data)
    except OSError as error:
      self._unwritten = data
      if not self._warned:
        self._warn(
            f"cannot write {self._path} ({files.reason(error)}); training goes"
            f" on, and it is tried again"
        )
      self._warned = True
      return
    self._unwritten, self._warned = b"", False

  def flush(self) -> None:
    """All that was written can be read, also in an object store."""
    self._lines.due = True
    self._append(self._unwritten)
    with self._events_may_fail():
      if self._events is not None and store.is_remote(self._path):
        self._events.flush()

  @contextlib.contextmanager
  def _events_may_fail(self):
    """TensorBoard's events repeat the lines: without them training goes on."""
    try:
      yield
    except OSError as error:
      if self._events is not None:
        self._close_events()
      self._warn(
          f"no more TensorBoard events are written ({files.reason(error)})"
      )

  def _close_events(self) -> None:
    events, self._events = self._events, None
    with contextlib.suppress(OSError):
      events.close()

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exception) -> None:
    self._lines.due = True
    self._append(self._unwritten)
    self._lines.close()
    if self._events is not None:
      self._close_events()


class _Events:
  """An event file of TensorBoard, written by the thread that has the events.

  tensorboardX's own writer has a thread, and dies with it on a full disk. For an
  object store the file is made on this machine, and copied there.
  """

  def __init__(self, workdir: str):
    name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}"
    self._target = self._here = None
    if store.is_remote(workdir):
      self._target = os.path.join(workdir, name)
      self._here = tempfile.TemporaryDirectory(prefix="diffai_jax-")
      workdir = self._here.name
    self._path = os.path.join(os.path.abspath(workdir), name)
    self._records = RecordWriter(self._path)
    self._flushed = time.monotonic()
    self.add(file_version="brain.Event:2")

  def add(self, **values) -> None:
    """Writes an Event with those fields."""
    event = Event(wall_time=time.time(), **values)
    self._records.write(event.SerializeToString())
    if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
      self.flush()

  def flush(self) -> None:
    """Writes what there is.

    Raises:
      OSError: if it cannot be written.
    """
    self._records.flush()
    self._flushed = time.monotonic()
    if self._target:
      store.copy(self._path, self._target)

  def close(self) -> None:
    """Writes what is left, and closes the file."""
    try:
      self._records.close()
      if self._target:
        store.copy(self._path, self._target)
    finally:
      if self._here:
        self._here.cleanup()


def read(workdir: str) -> list[dict]:
  """The lines of `metrics.jsonl`, without those that are no metrics.

  Raises:
    UsageError: if the file cannot be read.
  """
  return _parse(workdir)[0]


def _parse(workdir: str) -> tuple[list[dict], int]:
  """The lines in order of their steps, and how many others there are.

  One that a kill cut short is the last, has no end, and does not count.
  """
  path = os.path.join(workdir, FILE)
  try:
    data = store.read_bytes(path)
  except FileNotFoundError:
    return [], 0
  except OSError as error:
    raise UsageError(
        f"{path} cannot be read ({files.reason(error)}); move it away to go on"
        f" without it"
    ) from None
  *whole, end = data.split(b"\n")
  rows, bad, last = [], 0, -1
  for line in whole:
    row = _row(line)
    if row is None or row["step"] <= last:
      bad += 1
    else:
      rows.append(row)
      last = row["step"]
  row = _row(end)
  if row is not None and row["step"] > last:
    rows.append(row)
  return rows, bad


def _row(line: bytes) -> dict | None:
  """The metrics in a line: an object of numbers with a step; or None."""
  try:
    row = json.loads(line)
  except (ValueError, RecursionError):  # Of JSON, of UTF-8, of brackets.
    return None
  if not isinstance(row, dict) or type(row.get("step")) is not int:
    return None
  numbers = all(type(value) in (int, float) for value in row.values())
  return row if numbers and row["step"] >= 0 else None
