"""Runs a program in several real processes on this machine."""

from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

from diffai_jax.networks import ffnn

TINY = functools.partial(ffnn, hidden=(9,))  # Compiles fast.
_ROOT = pathlib.Path(__file__).parents[2]
_SECONDS = 240  # Until a test fails that would never end.


@dataclasses.dataclass(frozen=True)
class Result:
  """How a process ended.

  Attributes:
    code: its exit code; negative is the signal that killed it.
    out, err: what it wrote, as lines.
  """

  code: int
  out: list[str]
  err: list[str]


def run(
    program: str, arguments: Sequence[str], count: int = 2,
    devices: int | None = None,
) -> list[Result]:
  """Runs a Python file in so many processes, which find each other.

  Args:
    program: the file, in this folder.
    arguments: of each of them; {index} becomes the process's own.
    count: how many; they are told of each other by the environment.
    devices: how many CPUs each takes itself to have; None is one.
  """
  with socket.create_server(("127.0.0.1", 0)) as server:
    address = "127.0.0.1:{1}".format(*server.getsockname())
  flags = os.environ.get("XLA_FLAGS", "")
  if devices:
    flags += f" --xla_force_host_platform_device_count={devices}"
  folder = pathlib.Path(__file__).parent
  environment = os.environ | {
      "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2",
      "PYTHONPATH": os.pathsep.join(map(str, (_ROOT, folder.parent))),
  }
  if count > 1:
    environment |= {
        "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count),
    }
  started = []
  with tempfile.TemporaryDirectory() as written:
    for index in range(count):
      out, err = (
          open(os.path.join(written, f"{name}{index}"), "w+")
          for name in ("out", "err")
      )
      started.append((subprocess.Popen(
          [sys.executable, str(folder / program),
           *(text.format(index=index) for text in arguments)],
          env=environment | (
              {"JAX_PROCESS_ID": str(index)} if count > 1 else {}
          ),
          stdout=out, stderr=err, stdin=subprocess.DEVNULL,
      ), out, err))
    try:
      return [_result(*one) for one in started]
    finally:
      for process, out, err in started:
        process.kill()
        process.wait()
        out.close()
        err.close()


def _result(process: subprocess.Popen, out, err) -> Result:
  code = process.wait(_SECONDS)
  lines = []
  for file in (out, err):
    file.seek(0)
    lines.append(file.read().splitlines())
  return Result(code, *lines)
