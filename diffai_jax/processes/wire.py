"""Messages between two processes over TCP: a kind, and bytes."""

import dataclasses
import queue
import socket
import struct
import threading

# What a message is.
HELLO, PING, DATA, BYE, END = range(5)
# Both sides send a message at least so often, and take a peer that sends
# nothing for so long to have ended.
SECONDS_BETWEEN_PINGS = 4.0
SECONDS_OF_SILENCE = 25.0

_HEADER = struct.Struct("!BQ")
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Peer:
  """A process, as errors name it.

  Attributes:
    index, count: which of how many.
    pid, host: where it runs.
  """

  index: int
  count: int
  pid: int
  host: str

  def __str__(self) -> str:
    return (
        f"process {self.index} of {self.count} (pid {self.pid} on {self.host})"
    )


class Link:
  """A connection to a peer. Any thread may send; one thread receives.

  Args:
    connection: a connected socket.
    peer: who is at its other end.

  Attributes:
    peer: who is at its other end.
    inbox: the data that came, in order; None once nothing more will.
    left: whether the peer said goodbye.
    closed: set when nothing more can be received.
  """

  def __init__(self, connection: socket.socket, peer: Peer):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(SECONDS_OF_SILENCE)
    self.peer = peer
    self.inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    self.left = False
    self.closed = threading.Event()
    self._connection = connection
    self._sending = threading.Lock()

  def send(self, kind: int, data: bytes = b"") -> None:
    """Sends a message.

    Raises:
      OSError: if the connection is broken, or the peer takes nothing.
    """
    with self._sending:
      send(self._connection, kind, data)

  def receive(self) -> tuple[int, bytes]:
    """The next message.

    Raises:
      EOFError, OSError: if none will come.
    """
    return receive(self._connection)


def send(connection: socket.socket, kind: int, data: bytes) -> None:
  """Sends a message; each part of it within the connection's timeout."""
  connection.sendall(_HEADER.pack(kind, len(data)))
  view = memoryview(data)
  for start in range(0, len(data), _CHUNK):
    connection.sendall(view[start : start + _CHUNK])


def receive(connection: socket.socket, longest: int | None = None):
  """The next message: (kind, data).

  Args:
    connection: to receive from.
    longest: bytes that a message may have; None is any number.

  Raises:
    EOFError, OSError: if the other side is gone, silent or not one of ours.
  """
  kind, size = _HEADER.unpack(_exactly(connection, _HEADER.size))
  if longest is not None and size > longest:
    raise EOFError
  return kind, bytes(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytearray:
  data = bytearray(size)
  view, done = memoryview(data), 0
  while done < size:
    count = connection.recv_into(view[done:])
    if not count:
      raise EOFError
    done += count
  return data
