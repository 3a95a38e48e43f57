"""Makes one run of several processes: JAX's own connection, and the watch's."""

from collections.abc import Sequence
import json
import os
import secrets
import socket
import threading
import time

import jax
from jax.experimental import multihost_utils
import numpy as np

from diffai_jax.processes import environment, exchange, quiet, relay, wire
from diffai_jax.processes.watch import Watch, end_process, say
from diffai_jax.types import UsageError, reason

_SECONDS = 300  # Until every process has to be there.
_SECONDS_TO_LINK = 60.0
_ADDRESS_BYTES = 2048  # Of process 0's addresses, as JSON.
_LONGEST_HELLO = 4096


def connect(spec: str) -> None:
  """Joins the other processes of the run, if there are any.

  Before anything asks JAX for its devices; a second call does nothing.

  Args:
    spec: "auto", "off" or "ADDRESS,N,ID", as `environment.place_of` takes it.

  Raises:
    UsageError: if it is none of that, or the others cannot be reached.
  """
  if exchange.current() is not None:
    return
  place = environment.place_of(spec)
  if place is None:
    return
  quiet.without_gloo()
  _connect_jax(place)
  try:
    links = _links(place)
  except (OSError, EOFError) as error:
    raise UsageError(
        f"process {place.index} of {place.count} cannot reach process 0"
        f" ({reason(error)}); the machines have to reach each other's ports"
    ) from None
  exchange.join(Watch(place.index, place.count, links))
  _require_equal_devices()


def _require_equal_devices() -> None:
  """Raises UsageError unless all processes have as many devices."""
  counts = exchange.gathered(np.int64(jax.local_device_count()))
  if np.any(counts != counts[0]):
    raise UsageError(
        f"the processes have {', '.join(map(str, counts))} devices; expected as"
        f" many each; choose them with JAX_LOCAL_DEVICE_IDS or"
        f" CUDA_VISIBLE_DEVICES"
    )


def disconnect() -> None:
  """Ends what `connect` began, once all processes are here."""
  watch = exchange.current()
  if watch is not None:
    watch.finish()
    jax.distributed.shutdown()
    exchange.leave()


def _connect_jax(place: environment.Place) -> None:
  # Its notices of preemption are signals, which `interrupts` handles, and what
  # it logs at the end of a coordinator would hide the one line that matters.
  jax.config.update("jax_enable_preemption_service", False)
  address = place.address
  # If JAX itself gives up, it aborts the process.
  patience = threading.Timer(_SECONDS, _give_up, [place])
  patience.daemon = True
  patience.start()
  try:
    if place.index:
      address = relay.start(place.host, place.port, _SECONDS)
    jax.distributed.initialize(
        address, place.count, place.index,
        local_device_ids=list(place.devices) or None,
        cluster_detection_method="deactivate",
        initialization_timeout=2 * _SECONDS,
    )
  except (RuntimeError, ValueError, OSError) as error:
    raise UsageError(
        f"process {place.index} of {place.count} cannot join the others at"
        f" {place.address} ({reason(error)}); start all of them, with the same"
        f" address, which is process 0's"
    ) from None
  finally:
    patience.cancel()


def _give_up(place: environment.Place) -> None:
  """Ends the process, whose main thread waits for others in JAX."""
  say(
      f"error: process {place.index} of {place.count} has waited"
      f" {_SECONDS} seconds for the others, at {place.address}; start all of"
      f" them, with the same address, which is process 0's"
  )
  end_process(1)


def _links(place: environment.Place) -> list[wire.Link]:
  """Connections of process 0 to all others, in their order, and back."""
  token = secrets.token_hex(16)
  server, about = None, b""
  if not place.index:
    server = _server(place.host)
    about = json.dumps({
        "hosts": _own_names(place.host), "port": server.getsockname()[1],
        "token": token, "pid": os.getpid(), "host": socket.gethostname(),
    }).encode()
  # Through JAX, since nothing else connects the processes yet.
  row = np.zeros(_ADDRESS_BYTES, np.uint8)
  row[: len(about)] = np.frombuffer(about, np.uint8)
  first = multihost_utils.process_allgather(row)[0]
  about = json.loads(first.tobytes().rstrip(b"\0"))
  if server is None:
    return [_link_to_first(place, about)]
  with server:
    return _accepted(server, place.count, token)


def _server(host: str) -> socket.socket:
  """Listens where the coordinator does: on one machine, or on all networks."""
  if host in ("localhost", "127.0.0.1"):
    return socket.create_server(("127.0.0.1", 0))
  if socket.has_dualstack_ipv6():
    return socket.create_server(
        ("", 0), family=socket.AF_INET6, dualstack_ipv6=True
    )
  return socket.create_server(("", 0))


def _own_names(host: str) -> list[str]:
  """Names and addresses under which others may find process 0."""
  names = [host, socket.getfqdn(), socket.gethostname()]
  return [name for name in dict.fromkeys(names) if len(name) < 256]


def _accepted(
    server: socket.socket, count: int, token: str
) -> list[wire.Link]:
  """The connections of all others, in their order."""
  until = time.monotonic() + _SECONDS_TO_LINK
  found = {}
  while len(found) < count - 1:
    server.settimeout(max(0.1, until - time.monotonic()))
    connection, _ = server.accept()
    connection.settimeout(10.0)
    try:
      kind, data = wire.receive(connection, _LONGEST_HELLO)
      hello = json.loads(data)
      if kind != wire.HELLO or not secrets.compare_digest(
          hello["token"], token
      ):
        raise ValueError
      wire.send(connection, wire.HELLO, b"")
    except (OSError, EOFError, ValueError, KeyError, TypeError):
      connection.close()  # Of somebody who is none of us.
      continue
    found[hello["index"]] = wire.Link(
        connection,
        wire.Peer(hello["index"], count, hello["pid"], hello["host"]),
    )
  return [found[number] for number in sorted(found)]


def _link_to_first(place: environment.Place, about: dict) -> wire.Link:
  hello = json.dumps({
      "token": about["token"], "index": place.index, "pid": os.getpid(),
      "host": socket.gethostname(),
  }).encode()
  connection = _reached([place.host, *about["hosts"]], about["port"], hello)
  peer = wire.Peer(0, place.count, about["pid"], about["host"])
  return wire.Link(connection, peer)


def _reached(
    hosts: Sequence[str], port: int, hello: bytes
) -> socket.socket:
  """The first of the hosts that answers.

  Raises:
    OSError, EOFError: of the first one, if none does.
  """
  first = None
  for host in dict.fromkeys(hosts):
    try:
      connection = socket.create_connection((host, port), timeout=10.0)
      wire.send(connection, wire.HELLO, hello)
      wire.receive(connection, _LONGEST_HELLO)
      return connection
    except (OSError, EOFError) as error:
      first = first or error
  raise first
