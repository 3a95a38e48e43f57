"""The standard output without what gloo writes about itself.

gloo, which carries collectives between CPUs, writes a line to it for each group
of devices, from C++. What the program prints is for people and scripts to read.
"""

import atexit
import contextlib
import os
import sys
import threading

_UNWANTED = b"[Gloo]"


def without_gloo() -> None:
  """From now on, lines of gloo's do not reach the standard output.

  What this process writes to file descriptor 1 is read by a thread. Python's
  own `sys.stdout` goes where it went, under another number. Does nothing where
  `sys.stdout` is something else, as in a notebook.
  """
  try:
    if sys.stdout is not sys.__stdout__ or sys.stdout.fileno() != 1:
      return
    sys.stdout.flush()
    kept = os.dup(1)
  except (AttributeError, OSError, ValueError):
    return
  stream = open(
      kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors,
      buffering=1 if sys.stdout.line_buffering else -1, closefd=False,
  )
  sys.stdout = sys.__stdout__ = stream
  reading, writing = os.pipe()
  os.dup2(writing, 1)
  os.close(writing)
  thread = threading.Thread(target=_filter, args=(reading, kept), daemon=True)
  thread.start()

  def restore() -> None:
    with contextlib.suppress(OSError, ValueError):
      stream.flush()
      os.dup2(kept, 1)  # Closes the pipe's last end for writing.
      thread.join(1.0)

  atexit.register(restore)


def _filter(reading: int, writing: int) -> None:
  with open(reading, "rb") as lines, contextlib.suppress(OSError):
    for line in lines:
      if not line.startswith(_UNWANTED):
        os.write(writing, line)
