"""The processes of a run watch each other, and end together.

A collective whose peer has died waits for ever, and JAX's own service notices
after minutes, with a C++ abort. So process 0 has a connection to each other
process. Whoever ends by itself says so; one that falls silent or whose
connection breaks has died. Either ends all of them, also while their main
threads are in a collective or a compilation.
"""

from collections.abc import Callable, Sequence
import contextlib
import json
import os
import queue
import sys
import threading
import time
from typing import NoReturn

from diffai_jax.processes import wire
from diffai_jax.types import UsageError, on_one_line, shortened

# An error that all processes meet reaches each of them within this time, and is
# told once.
_GRACE = 3.0
# A collective breaks before the watch knows why; so long its error waits.
_PATIENCE = 5.0
_MOST_SECONDS = 10.0  # That one waits for the others to have ended.
_SECONDS_TO_FLUSH = 1.0
_LONGEST = 2000  # Characters of an error's line.


class Watch:
  """This process among the others.

  Args:
    index, count: which process of how many this is.
    links: of process 0 to all others in their order; of others to process 0.

  Attributes:
    index, count: which process of how many this is.
  """

  def __init__(self, index: int, count: int, links: Sequence[wire.Link]):
    self.index = index
    self.count = count
    self._links = list(links)
    self._exchanging = threading.Lock()
    self._ending = threading.Lock()  # Held for good by who ends the process.
    self._failing = threading.Event()  # The main thread has an error itself.
    self._verdict = queue.SimpleQueue()  # What process 0 says of that.
    self._done = threading.Event()
    for link in links:
      threading.Thread(target=self._listen, args=(link,), daemon=True).start()
    threading.Thread(target=self._ping, daemon=True).start()

  def exchange(self, data: bytes) -> list[bytes]:
    """What every process gives, in their order. All of them call it.

    Raises:
      UsageError: if one of them has finished.
    """
    with self._exchanging:
      if self.index:
        self._send(self._links[0], wire.DATA, data)
        return _parted(self._take(self._links[0]))
      found = [data, *map(self._take, self._links)]
      joined = _joined(found)
      for link in self._links:
        self._send(link, wire.DATA, joined)
      return found

  def spread(self, data: bytes | None) -> bytes:
    """What process 0 gives. All of them call it; the others give None.

    Raises:
      UsageError: if process 0 has finished.
    """
    with self._exchanging:
      if self.index:
        return self._take(self._links[0])
      for link in self._links:
        self._send(link, wire.DATA, data)
      return data

  def finish(self) -> None:
    """Waits until every process has come here; nobody watches afterwards."""
    self.exchange(b"")
    self._done.set()
    for link in self._links:
      self._send(link, wire.BYE)

  def fail(
      self, error: str, code: int, tell: Callable[[str], None],
      unexpected: bool = False,
  ) -> NoReturn:
    """Ends this process for an error of its own, and with it all others.

    An error that all of them have is told by process 0 alone.

    Args:
      error: one line.
      code: the exit code of all processes.
      tell: tells an error.
      unexpected: whether the error may be that of a collective which another
        process has left; then that one is told.
    """
    if unexpected:
      time.sleep(_PATIENCE)
    self._failing.set()
    if not self._ending.acquire(timeout=_MOST_SECONDS):
      time.sleep(_MOST_SECONDS)  # The watch ends the process.
    if self.index:
      self._send(self._links[0], wire.END, self._message(error, code))
      try:
        own = self._verdict.get(timeout=_MOST_SECONDS) == self.index
      except queue.Empty:
        own = True
      if own:
        tell(f"process {self.index} of {self.count}: {error}")
    else:
      tell(error)
      self._end_others(error, code, self.index)
    end_process(code)

  def announce(self, error: str, code: int) -> None:
    """Tells the others of an error: this process ends now, whatever it does."""
    message = self._message(error, code)

    def send() -> None:
      for link in self._links:
        self._send(link, wire.END, message)

    # Not for ever: the main thread may be sending.
    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(_SECONDS_TO_FLUSH)

  def _message(self, error: str, code: int, of: int | None = None) -> bytes:
    return json.dumps({
        "error": error, "code": code, "of": self.index if of is None else of,
    }).encode()

  def _send(self, link: wire.Link, kind: int, data: bytes = b"") -> None:
    with contextlib.suppress(OSError):  # The thread that listens notices.
      link.send(kind, data)

  def _take(self, link: wire.Link) -> bytes:
    data = link.inbox.get()
    if data is None:
      raise UsageError(f"{link.peer} has finished, and this one has not")
    return data

  def _ping(self) -> None:
    while not self._done.wait(wire.SECONDS_BETWEEN_PINGS):
      for link in self._links:
        if not link.closed.is_set():
          self._send(link, wire.PING)

  def _listen(self, link: wire.Link) -> None:
    """Takes what a peer sends, until it ends."""
    while True:
      try:
        kind, data = link.receive()
      except (EOFError, OSError) as error:
        link.closed.set()
        self._verdict.put(0)
        if not link.left and not self._failing.is_set():
          self._lost(link, isinstance(error, TimeoutError))
        return
      if kind == wire.DATA:
        link.inbox.put(data)
      elif kind == wire.BYE:
        link.left = True
        link.inbox.put(None)
      elif kind == wire.END:
        link.left = True
        # By another thread: this one has to see the connection's end.
        threading.Thread(
            target=self._told, kwargs=json.loads(data), daemon=True
        ).start()

  def _lost(self, link: wire.Link, silent: bool) -> None:
    what = (
        f"has not answered for {wire.SECONDS_OF_SILENCE:.0f} seconds"
        if silent else "has ended"
    )
    self._end(
        f"{link.peer} {what}; all others end, too; the same command goes on"
        f" from the last checkpoint", 1, link.peer.index,
    )

  def _told(self, error: str, code: int, of: int) -> None:
    """Another process has an error; it may be everybody's."""
    self._verdict.put(of)
    if self._failing.wait(_GRACE):
      return  # It is told by `fail`.
    if not self.index:
      error = f"process {of} of {self.count}: {error}"
    self._end(error, code, of)

  def _end(self, error: str, code: int, of: int) -> None:
    """Ends this process from a thread that listens."""
    if self._ending.acquire(blocking=False):
      line = shortened(on_one_line(error), _LONGEST)
      say(f"error: {line}")
      if not self.index:
        self._end_others(line, code, of)
      end_process(code)

  def _end_others(self, error: str, code: int, of: int) -> None:
    """Process 0, which JAX's service is in, is the last one to end."""
    message = self._message(error, code, of)
    open_links = [link for link in self._links if not link.closed.is_set()]
    for link in open_links:
      self._send(link, wire.END, message)
    until = time.monotonic() + _MOST_SECONDS
    for link in open_links:
      link.closed.wait(max(0.0, until - time.monotonic()))


def say(line: str) -> None:
  """Writes a line to stderr, from any thread."""
  # Not by print: the main thread may hold a lock that it needs.
  with contextlib.suppress(OSError):
    os.write(sys.__stderr__.fileno(), f"{line}\n".encode())


def end_process(code: int) -> NoReturn:
  """Ends the process at once: JAX would wait for the others at its end."""
  for stream in (sys.stdout, sys.stderr):
    # Not for ever: the thread that has the stream's lock may not run again.
    flush = threading.Thread(target=_flush, args=(stream,), daemon=True)
    flush.start()
    flush.join(_SECONDS_TO_FLUSH)
  os._exit(code)


def _flush(stream) -> None:
  with contextlib.suppress(OSError, ValueError):
    stream.flush()


def _joined(parts: Sequence[bytes]) -> bytes:
  """Bytes of several parts, with their sizes in front."""
  sizes = json.dumps([len(part) for part in parts]).encode()
  return b"".join([sizes, b"\n", *parts])


def _parted(data: bytes) -> list[bytes]:
  sizes, _, rest = data.partition(b"\n")
  parts, start = [], 0
  for size in json.loads(sizes):
    parts.append(rest[start : start + size])
    start += size
  return parts
