"""A door to JAX's coordinator that stays open when the coordinator dies.

JAX's client aborts its process, with a C++ stack trace, as soon as its
connection to the coordinator breaks. Behind a relay in its own process it sees
silence instead, and until it loses patience the watch has ended all processes
with one line.
"""

import contextlib
import socket
import threading
import time

_SECONDS_BETWEEN_TRIES = 0.2
_CHUNK = 2**16


def start(host: str, port: int, seconds: float) -> str:
  """Starts a relay to an address.

  Args:
    host, port: the coordinator's; it may not listen yet.
    seconds: for which a connection to it is tried.

  Returns:
    The relay's own address, for this process.

  Raises:
    OSError: if this machine gives no port.
  """
  server = socket.create_server(("127.0.0.1", 0))

  def serve() -> None:
    while True:
      inner, _ = server.accept()
      threading.Thread(
          target=_join, args=(inner, host, port, seconds), daemon=True
      ).start()

  threading.Thread(target=serve, daemon=True).start()
  return "{}:{}".format(*server.getsockname())


def _join(inner: socket.socket, host: str, port: int, seconds: float) -> None:
  """Passes on what comes, both ways."""
  outer = _connected(host, port, seconds)
  if outer is None:
    inner.close()
    return
  for one in (inner, outer):
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  threading.Thread(target=_pass_on, args=(inner, outer), daemon=True).start()
  # That the coordinator is gone is not passed on: `inner` stays open.
  with contextlib.suppress(OSError):
    while data := outer.recv(_CHUNK):
      inner.sendall(data)


def _pass_on(inner: socket.socket, outer: socket.socket) -> None:
  with contextlib.suppress(OSError):
    while data := inner.recv(_CHUNK):
      outer.sendall(data)
  with contextlib.suppress(OSError):
    outer.close()


def _connected(host: str, port: int, seconds: float) -> socket.socket | None:
  until = time.monotonic() + seconds
  while time.monotonic() < until:
    try:
      connection = socket.create_connection((host, port), timeout=10.0)
    except OSError:
      time.sleep(_SECONDS_BETWEEN_TRIES)
      continue
    connection.settimeout(None)
    return connection
  return None
