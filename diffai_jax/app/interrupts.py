"""Signals that ask the program to end, which it does where nothing is lost.

SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal) are caught by the
command alone, while `caught` is entered; importing changes nothing. Within
`deferred` the work looks at `requested` when it can stop, which is after a
training step; outside of it, where nothing is in memory alone, they raise
Interrupted at once. A second signal ends the process whatever it does, also in
the middle of a compilation.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import types

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
# So long may the interpreter take to get to a signal's handler; if it takes
# longer, the main thread is in a compilation.
_PATIENCE = 2.0
# What a handler raises is lost in what the interpreter calls by itself, such as a
# callback of the garbage collector: then the signal comes again, so much later.
_LOST, _LATER = 255, 0.05


class Interrupted(BaseException):
  """The program was asked to end. No handler of errors catches it.

  Attributes:
    number: of the signal.
    where: what was going on, and what to do; "" if nobody said so yet.
  """

  def __init__(self, number: int, where: str = ""):
    super().__init__(number, where)
    self.number = number
    self.where = where

  @property
  def message(self) -> str:
    """One line: which signal, where it stopped, what to do."""
    return f"stopped by {name(self.number)} {self.where}".strip()

  @property
  def exit_code(self) -> int:
    """As shells have it: 128 plus the number, such as 130."""
    return 128 + self.number


class _Watch:
  """What the signals of this process have asked for."""

  def __init__(self):
    self.clear()

  def clear(self) -> None:
    self.depth = 0  # Of the `deferred` parts that the program is in.
    self.first: int | None = None
    self.noticed = threading.Event()


_watch = _Watch()
_before_end: list[Callable[[str, int], None]] = []


def name(number: int) -> str:
  """The signal's name, such as SIGTERM."""
  return signal.Signals(number).name


def requested() -> int | None:
  """The signal that asked the program to end, or None."""
  return _watch.first


def before_end(function: Callable[[str, int], None]) -> None:
  """Has a function called before a signal ends the process at once.

  Args:
    function: given the line that says why, and the exit code. It is called in
      a thread, and must not wait for the main one.
  """
  _before_end.append(function)


@contextlib.contextmanager
def deferred(where: str) -> Iterator[None]:
  """A part of the program that looks at `requested` by itself.

  Args:
    where: told of a signal that came after the last look.

  Raises:
    Interrupted: at its end, if a signal came that it did not look at.
  """
  _watch.depth += 1
  try:
    yield
  finally:
    _watch.depth -= 1
  if _watch.first is not None and not _watch.depth:
    raise Interrupted(_watch.first, where)


@contextlib.contextmanager
def told(where: str) -> Iterator[None]:
  """Says where the program was, and what to do, if it is interrupted here."""
  try:
    yield
  except Interrupted as error:
    error.where = error.where or where
    raise


@contextlib.contextmanager
def caught(last: bool = False) -> Iterator[None]:
  """Handles the signals; the handlers from before come back afterwards.

  One that is ignored (of a command under nohup) stays so.

  Args:
    last: whether the process ends afterwards, with nothing left to stop. Signals
      are ignored from then on: Python takes its handlers away while it ends, and
      one that came then would kill it without a word, its work all done.
  """
  if threading.current_thread() is not threading.main_thread():
    yield  # Python's signals are the main thread's.
    return
  _watch.clear()
  reading, writing = socket.socketpair()
  writing.setblocking(False)
  before = {number: signal.getsignal(number) for number in _numbers()}
  report = sys.unraisablehook

  def lost(unraisable) -> None:
    if not isinstance(unraisable.exc_value, Interrupted):
      report(unraisable)
      return
    with contextlib.suppress(OSError):
      writing.send(bytes([_LOST]))

  wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
  thread = threading.Thread(target=_listen, args=(reading,), daemon=True)
  thread.start()
  sys.unraisablehook = lost
  for number in before:
    signal.signal(number, _handle)
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, signal.SIG_IGN if last else handler)
    sys.unraisablehook = report
    signal.set_wakeup_fd(wakeup)
    writing.close()  # Ends the thread.
    thread.join()
    reading.close()
    _watch.clear()


def end_while_loading() -> None:
  """Until `caught` is entered, a signal ends the process with one line."""

  def end(number: int, frame: types.FrameType | None) -> None:
    _end(number, "before anything was done")

  for number in _numbers():
    signal.signal(number, end)


def _numbers() -> list[int]:
  """The signals that this system has and that are not ignored."""
  known = [getattr(signal, text) for text in _NAMES if hasattr(signal, text)]
  return [n for n in known if signal.getsignal(n) != signal.SIG_IGN]


def _handle(number: int, frame: types.FrameType | None) -> None:
  """What the interpreter calls in the main thread, when it gets to it."""
  _watch.noticed.set()
  if _watch.first is None:
    _watch.first = number
  if not _watch.depth:
    raise Interrupted(_watch.first)


def _listen(reading: socket.socket) -> None:
  """Reads the numbers of the signals as they come, whatever else goes on."""
  first, again = True, 0
  while byte := reading.recv(1):
    number = byte[0]
    if number == _LOST:
      time.sleep(_LATER)
      again += 1
      signal.pthread_kill(threading.main_thread().ident, _watch.first)
      continue
    if number not in _numbers():
      continue
    if again:
      again -= 1
      continue
    if not first:
      _end(number, "at once")
    first = False
    if _watch.depth:
      _say(f"{name(number)}: stopping after this step; once more ends at once")
    elif not _watch.noticed.wait(_PATIENCE):
      _end(number, "in a compilation; the same command goes on")


def _say(text: str) -> None:
  # Not by rich: its console may be locked by what is interrupted.
  with contextlib.suppress(OSError):
    os.write(sys.__stderr__.fileno(), f"\n{text}\n".encode())


def _end(number: int, where: str) -> None:
  message = Interrupted(number, where).message
  _say(f"error: {message}")
  for function in _before_end:
    function(message, 128 + number)
  os._exit(128 + number)
