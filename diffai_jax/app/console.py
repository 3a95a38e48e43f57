"""What a person at a terminal sees: headings, progress, tables."""

from collections.abc import Callable, Iterable
import contextlib
import dataclasses
import html
import math
import sys
import time

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from diffai_jax.types import on_one_line, shortened

# Where there is no terminal (a log file), a line now and then.
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_UPDATES = 0.2  # Of a notebook's output.
_NARROW = 72  # Columns of a terminal without room for a bar.
_LONGEST_MESSAGE = 2000  # Values in a message are much shorter.

# Prints exactly what it is given: no markup, no guessed colours, no wrapping; in
# a notebook as text, where rich would make a display of each line.
_PLAIN = {
    "highlight": False, "markup": False, "emoji": False, "soft_wrap": True,
    "force_jupyter": False,
}
console = Console(**_PLAIN)
if not console.is_terminal:  # A log has no width to wrap at.
  console = Console(**_PLAIN, width=10_000)


def silence() -> None:
  """From now on nothing is printed but errors: another process prints."""
  console.quiet = True


def print_error(message: str, detail: str = "") -> None:
  """Prints one error to stderr, with the lines that show its place.

  Args:
    message: becomes one line, whatever characters it has and however long it
      is.
    detail: further lines, or "".
  """
  stderr = Console(stderr=True, **_PLAIN)
  line = shortened(on_one_line(message), _LONGEST_MESSAGE)
  stderr.print(Text("error: ", style="bold red") + Text(line))
  for line in detail.splitlines():
    stderr.print(Text(on_one_line(line)))


def print_warning(message: str) -> None:
  """Prints one line to stderr; the program goes on."""
  if console.quiet:
    return
  stderr = Console(stderr=True, **_PLAIN)
  line = shortened(on_one_line(message), _LONGEST_MESSAGE)
  stderr.print(Text("warning: ", style="bold yellow") + Text(line))


def print_table(title: str, rows: Iterable[tuple[str, ...]]) -> None:
  """Prints rows of equal length; the first of a row is what it is about."""
  rows = list(rows)
  table = Table(title=title, title_justify="left", box=box.SIMPLE,
                show_header=False, title_style="bold", pad_edge=False)
  for number in range(len(rows[0])):
    table.add_column(overflow="fold", no_wrap=number == 0)
  for row in rows:
    table.add_row(*map(Text, row))
  console.print(table, soft_wrap=False)


def print_path(what: str, path: str) -> None:
  """Prints a path on a line of its own, where it can be copied whole."""
  console.print(Text(f"{what}:"))
  console.print(Text(on_one_line(path)))


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str, done: int = 0):
  """A bar at a terminal or in a notebook, a line now and then elsewhere.

  Args:
    label: what goes on.
    total: how much there is to do.
    unit: of `total`, for the lines.
    done: how much of it is done already.

  Yields:
    A function (done, note): how much is done now, and a short remark.
  """
  if console.quiet:
    yield lambda done, note="": None
  elif in_notebook():
    yield _notebook_bar(label, total, unit, done)
  elif console.is_terminal:
    with _live_bar(label, total, done) as update:
      yield update
  else:
    yield _line_printer(label, total, unit, done)


def in_notebook() -> bool:
  """Whether a notebook's kernel runs this: Jupyter's, Colab's, an editor's."""
  if "IPython" not in sys.modules:
    return False
  from IPython import get_ipython

  return getattr(get_ipython(), "kernel", None) is not None


class _Note(ProgressColumn):
  """The remark, cut to the room that the other columns leave."""

  def render(self, task) -> Text:
    return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")


@contextlib.contextmanager
def _live_bar(label: str, total: int, done: int):
  # The count and the time left are never dropped: the remark is cut first, and
  # where a terminal is narrow there is no bar.
  whole = console.width >= _NARROW
  columns = [TextColumn("{task.description}"), MofNCompleteColumn()]
  if whole:
    columns.insert(1, BarColumn(bar_width=min(24, console.width // 8)))
    columns.append(TimeElapsedColumn())
  columns += [TimeRemainingColumn(), TextColumn("left")]
  if whole:
    columns.append(_Note())
  bar = Progress(*columns, console=console)
  with bar:
    task = bar.add_task(label, total=total, completed=done, note="")
    yield lambda done, note="": bar.update(task, completed=done, note=note)


@dataclasses.dataclass(frozen=True)
class _Moment:
  """How far something is, as a notebook shows it.

  Attributes:
    label, done, total, unit: what, and how much of it is done.
    note: a remark.
    left: estimated seconds until the end.
  """

  label: str
  done: int
  total: int
  unit: str
  note: str
  left: float

  def __repr__(self) -> str:
    parts = [
        f"{self.label}: {self.done}/{self.total} {self.unit}", self.note,
        f"{self.left:.0f} s left" if self.done < self.total else "done",
    ]
    return "  ".join(filter(None, parts))

  def _repr_html_(self) -> str:
    bar = f'<progress value="{self.done}" max="{max(self.total, 1)}"></progress>'
    return f"<code>{bar} {html.escape(repr(self))}</code>"


def _notebook_bar(
    label: str, total: int, unit: str, first: int
) -> Callable[[int, str], None]:
  """Updates one output of the cell in place; needs no widgets."""
  from IPython.display import display

  handle = display(
      _Moment(label, first, total, unit, "", 0.0), display_id=True
  )

  def show(done: int, note: str, left: float) -> None:
    handle.update(_Moment(label, done, total, unit, note, left))

  return _paced(show, _SECONDS_BETWEEN_UPDATES, total, first, at_once=True)


def _line_printer(
    label: str, total: int, unit: str, first: int
) -> Callable[[int, str], None]:

  def show(done: int, note: str, left: float) -> None:
    parts = [f"{label}: {done}/{total} {unit}", note, f"{left:.0f} s left"]
    console.print("  ".join(filter(None, parts)))

  return _paced(show, _SECONDS_BETWEEN_LINES, total, first)


def _paced(
    show: Callable[[int, str, float], None],
    seconds: float,
    total: int,
    first: int,
    at_once: bool = False,
) -> Callable[[int, str], None]:
  """Shows what is done, a note and the seconds left, but not too often.

  Args:
    show: what shows them.
    seconds: between two calls of it; the end is always shown.
    total, first: how much there is, and how much was done at the beginning.
    at_once: whether the first update is shown, however early.
  """
  start = time.monotonic()
  last = -math.inf if at_once else start

  def update(done: int, note: str = "") -> None:
    nonlocal last
    now = time.monotonic()
    if now - last < seconds and done < total:
      return
    last = now
    show(done, note, (now - start) * (total - done) / max(done - first, 1))

  return update
