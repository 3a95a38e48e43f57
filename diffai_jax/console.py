"""What a person at a terminal sees: headings, progress, tables."""

from collections.abc import Callable, Iterable
import contextlib
import time

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

# Where there is no terminal (a log file, a notebook), a line now and then.
_SECONDS_BETWEEN_LINES = 10.0

# Prints exactly what it is given: no markup, no guessed colours, no wrapping.
_PLAIN = {
    "highlight": False, "markup": False, "emoji": False, "soft_wrap": True
}
console = Console(**_PLAIN)
if not console.is_terminal:  # A log has no edge to fold at.
  console = Console(**_PLAIN, width=10_000)


def print_error(message: str, detail: str = "") -> None:
  """Prints one error to stderr, with the lines that show its place."""
  stderr = Console(stderr=True, **_PLAIN)
  stderr.print(Text("error: ", style="bold red") + Text(message))
  if detail:
    stderr.print(Text(detail))


def print_warning(message: str) -> None:
  """Prints one line to stderr; the program goes on."""
  stderr = Console(stderr=True, **_PLAIN)
  stderr.print(Text("warning: ", style="bold yellow") + Text(message))


def print_table(title: str, rows: Iterable[tuple[str, ...]]) -> None:
  """Prints rows of equal length; the first of a row is what it is about."""
  rows = list(rows)
  table = Table(title=title, title_justify="left", box=box.SIMPLE,
                show_header=False, title_style="bold", pad_edge=False)
  for _ in rows[0]:
    table.add_column(overflow="fold")
  for row in rows:
    table.add_row(*map(Text, row))
  console.print(table, soft_wrap=False)


@contextlib.contextmanager
def progress_bar(label: str, total: int, unit: str, done: int = 0):
  """A bar on a terminal, a line now and then elsewhere.

  Args:
    label: what goes on.
    total: how much there is to do.
    unit: of `total`, for the lines.
    done: how much of it is done already.

  Yields:
    A function (done, note): how much is done now, and a short remark.
  """
  if console.is_terminal:
    with _live_bar(label, total, done) as update:
      yield update
  else:
    yield _line_printer(label, total, unit, done)


@contextlib.contextmanager
def _live_bar(label: str, total: int, done: int):
  bar = Progress(
      TextColumn("{task.description}"),
      BarColumn(bar_width=24),
      MofNCompleteColumn(),
      TextColumn("{task.fields[note]}"),
      TimeElapsedColumn(),
      TextColumn("left"),
      TimeRemainingColumn(),
      console=console,
  )
  with bar:
    task = bar.add_task(label, total=total, completed=done, note="")
    yield lambda done, note="": bar.update(task, completed=done, note=note)


def _line_printer(
    label: str, total: int, unit: str, first: int
) -> Callable[[int, str], None]:
  start = last = time.monotonic()

  def update(done: int, note: str = "") -> None:
    nonlocal last
    now = time.monotonic()
    if now - last < _SECONDS_BETWEEN_LINES and done < total:
      return
    last = now
    left = (now - start) * (total - done) / max(done - first, 1)
    parts = [f"{label}: {done}/{total} {unit}", note, f"{left:.0f} s left"]
    console.print("  ".join(filter(None, parts)))

  return update
