"""What is printed where there is no terminal: plain lines, no codes."""

import io
import re
import types

import pytest
from rich.console import Console

from diffai_jax.app import console

_NASTY = "[bold]x[/bold] :smile: [/] http://a.b 12 'q'" + " long" * 60


@pytest.fixture
def seconds(monkeypatch):
  """A clock that the test sets: seconds[0]."""
  now = [0.0]
  monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
  return now


def _lines(out: str) -> list[str]:
  assert "\x1b" not in out and "\r" not in out
  return out.splitlines()


def test_an_error_is_one_line_on_stderr(capsys):
  """The text comes as it is, unbroken, however long; stdout stays empty."""
  console.print_error(_NASTY)
  out, err = capsys.readouterr()
  assert out == ""
  assert _lines(err) == [f"error: {_NASTY}"]


def test_an_errors_detail_follows_it(capsys):
  """Lines that show a place keep their columns."""
  console.print_error("goal: wrong (column 5)", "Mix(Pint)\n    ^")
  assert _lines(capsys.readouterr().err) == [
      "error: goal: wrong (column 5)", "Mix(Pint)", "    ^"
  ]


@pytest.mark.parametrize("message", [
    "a\nb", "a\r\x1b[2Jb", "\x00", "\x9b31m", "\u2028", "\udcff", "\u202e",
    "x" * 300_000,
])
def test_an_error_is_one_line_whatever_it_has(capsys, message):
  """No character moves the cursor, and a screen holds it."""
  console.print_error(message, f"{message[:50]}\n^")
  out, err = capsys.readouterr()
  assert out == "" and err.isascii() and len(err) < 2100
  first, *rest = err.split("\n")
  assert first.startswith("error: ") and rest[-2:] == ["^", ""]
  assert all(line.isprintable() for line in (first, *rest))


def test_text_is_printed_as_it_is(capsys):
  """No markup, no emoji, no wrapping."""
  console.console.print(_NASTY)
  assert _lines(capsys.readouterr().out) == [_NASTY]


def test_a_table_has_every_cell_in_its_row(capsys):
  """A row is a line, with its cells in order."""
  console.print_table("Results", [("a", "1", "[x]"), ("bb", ":smile:", "")])
  lines = [line.split() for line in _lines(capsys.readouterr().out)]
  assert [line for line in lines if line] == [
      ["Results"], ["a", "1", "[x]"], ["bb", ":smile:"]
  ]


def test_long_cells_stay_whole_in_a_log(capsys, monkeypatch):
  """A path or an objective can be copied from a log: it is not broken."""
  monkeypatch.setenv("COLUMNS", "60")
  path = "/a/very/long/folder" * 8
  console.print_table("Files", [(path, "what it is")])
  assert path in capsys.readouterr().out


def test_progress_prints_a_line_now_and_then(capsys, seconds):
  """At most one in ten seconds, with what is done and what is left."""
  with console.progress_bar("training", 100, "steps") as show:
    for done in range(1, 51):
      seconds[0] += 1
      show(done, f"loss {done}")
  lines = _lines(capsys.readouterr().out)
  assert lines == [
      f"training: {done}/100 steps  loss {done}  {100 - done} s left"
      for done in (10, 20, 30, 40, 50)
  ]


def test_progress_always_prints_the_end(capsys, seconds):
  """The last line comes whatever the time, once."""
  with console.progress_bar("certifying", 4, "images") as show:
    for done in range(1, 5):
      show(done)
  assert _lines(capsys.readouterr().out) == [
      "certifying: 4/4 images  0 s left"
  ]


def test_time_left_counts_from_where_the_run_began(capsys, seconds):
  """Going on from step 80, what was done before took no time of this run."""
  with console.progress_bar("training", 100, "steps", done=80) as show:
    seconds[0] = 30.0
    show(90)
  assert _lines(capsys.readouterr().out) == [
      "training: 90/100 steps  30 s left"
  ]


def test_an_error_in_the_work_comes_through(seconds):
  """The bar hides nothing."""
  with pytest.raises(KeyError):
    with console.progress_bar("training", 4, "steps"):
      raise KeyError("x")


@pytest.fixture
def terminal(monkeypatch):
  """A function that shows a bar on a terminal of some columns, as it looks."""

  def look(width: int, done: int, total: int) -> list[str]:
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(
        file=screen, force_terminal=True, width=width, color_system=None,
        legacy_windows=False, **console._PLAIN,
    ))
    with console.progress_bar("certifying", total, "images") as show:
      show(done // 2, "epoch 1.0")
      show(done, "epoch 12.3  loss 1.234  accuracy 0.987  verified 0.876")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    return [line for line in text.replace("\r", "\n").split("\n") if line]

  return look


@pytest.mark.parametrize("width", [40, 50, 71, 72, 80, 100, 120, 300])
@pytest.mark.parametrize("total", [20, 22_000, 200_000])
def test_a_bar_keeps_the_count_and_the_time_left(terminal, width, total):
  """In one line, whatever the remark; the bar shows where there is room."""
  for line in terminal(width, total // 2, total):
    assert len(line) <= width
  assert f"{total // 2}/{total}".replace(" ", "") in line.replace(" ", "")
  assert re.search(r"(-:--:--|\d:\d\d:\d\d) left", line)
  assert ("━" in line or "╸" in line) == (width >= 72)
  assert ("verified 0.876" in line) == (width >= 120)


def test_paths_stand_alone_and_unbroken(capsys, monkeypatch):
  """To be copied, at any width."""
  path = "/a/very/long/folder" * 8
  for width in (40, 80, 120):
    monkeypatch.setattr(
        console, "console", Console(width=width, **console._PLAIN)
    )
    console.print_path("results", path)
    assert _lines(capsys.readouterr().out) == ["results:", path]


def test_a_warning_is_a_line_on_stderr(capsys):
  console.print_warning("a\nb\x1b[0m")
  out, err = capsys.readouterr()
  assert out == ""
  assert _lines(err) == [r"warning: a\nb\x1b[0m"]


class _Handle:
  """What IPython's display gives: it notes the updates."""

  def __init__(self, first):
    self.shown = [first]

  def update(self, value):
    self.shown.append(value)


def test_a_notebook_has_one_output_that_is_updated(monkeypatch):
  """As text and as HTML; the last state is always shown."""
  IPython = pytest.importorskip("IPython")
  assert not console.in_notebook()  # IPython may be loaded by then.
  handles = []

  def display(value, display_id):
    assert display_id
    handles.append(_Handle(value))
    return handles[-1]

  kernel = types.SimpleNamespace(kernel=object())
  monkeypatch.setattr(IPython, "get_ipython", lambda: kernel)
  monkeypatch.setattr(IPython.display, "display", display)
  assert console.in_notebook()
  with console.progress_bar("working", 3, "steps", 1) as update:
    update(2, "a <remark>")
    update(2, "so soon that it is left out")
    update(3, "the end")
  (handle,) = handles
  texts = [repr(moment) for moment in handle.shown]
  assert [text.split("  ")[0] for text in texts] == [
      "working: 1/3 steps", "working: 2/3 steps", "working: 3/3 steps"
  ]
  assert texts[-1] == "working: 3/3 steps  the end  done"
  html = handle.shown[1]._repr_html_()
  assert '<progress value="2" max="3">' in html
  assert "a &lt;remark&gt;" in html
