"""Kills a run at random moments and starts it again, until it has ended.

  python -m benchmarks.kills --kills=40 --while_certifying=20

A small network learns digits and is certified. Two of three kills are SIGKILL,
the others SIGTERM, SIGINT or SIGHUP in turn. After each, every checkpoint is
whole and none is older than before; a signal that can be caught has its exit
code and one line. In the end the checkpoint's arrays and all results (without
the seconds) are those of a run that was left alone, bit for bit. Takes about
15 s a kill on two cores; ends with exit code 1 if anything was lost.
"""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags, logging

from benchmarks import results_of
from diffai_jax.training import checkpoints, snapshot

_KILLS = flags.DEFINE_integer("kills", 40, "at any moment")
_CERTIFYING = flags.DEFINE_integer("while_certifying", 20, "once trained")
_SEED = flags.DEFINE_integer("seed", 0, "of the moments")
_FOLDER = flags.DEFINE_string("folder", None, "of the runs; else a new one")

_EPOCHS, _STEPS = 20, 22
_SETTINGS = (
    "--config=configs/quickstart.py", "--config.network=FFNN",
    f"--config.epochs={_EPOCHS}", "--config.checkpoint_minutes=0.005",
    "--config.certify.examples=60", "--config.certify.attack.steps=1",
)
_POLITE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL = 0.005  # Seconds.


@dataclasses.dataclass
class _Tally:
  """What was seen so far."""

  kills: int = 0
  certifying: int = 0
  polite: int = 0
  runs: int = 0


def _start(workdir: str) -> subprocess.Popen:
  return subprocess.Popen(
      [sys.executable, "-m", "diffai_jax.main", f"--workdir={workdir}",
       *_SETTINGS],
      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
  )


def _is_trained(workdir: str) -> bool:
  last = os.path.join(workdir, checkpoints.FOLDER, str(_EPOCHS * _STEPS))
  return os.path.isdir(last)


def _newest_whole(workdir: str) -> int:
  """The step of the newest checkpoint; -1 if there is none.

  Raises:
    snapshot.SnapshotError: if one of them is not whole.
  """
  paths = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  for path in paths:
    snapshot.read_arrays(path, snapshot.read_manifest(path))
  return int(os.path.basename(paths[0])) if paths else -1


def _wait(process: subprocess.Popen, seconds: float) -> bool:
  """Whether the process still runs after that time."""
  try:
    process.wait(seconds)
    return False
  except subprocess.TimeoutExpired:
    return True


def _check_ended(process: subprocess.Popen, number: int) -> str | None:
  """What is wrong with how a process ended that got a signal; or None."""
  _, err = process.communicate(timeout=300)
  if number == signal.SIGKILL:
    return None
  if process.returncode == 0:  # It had just ended.
    return None
  lines = [
      line for line in err.splitlines()
      if line and not line.startswith("warning: ")
  ]
  name = signal.Signals(number).name
  # The first line says that it stops; the last one where it did.
  told = lines and lines[-1].startswith(f"error: stopped by {name}")
  if process.returncode != 128 + number or not told or len(lines) > 2:
    return f"{name}: exit code {process.returncode}, stderr {err!r}"
  return None


def _run_with_kills(
    workdir: str, length: float, tally: _Tally, moments: random.Random
) -> list[str]:
  """Runs until it ends by itself, or no kill is left; returns what is wrong."""
  wrong, newest = [], -1
  while True:
    any_moment = tally.kills < _KILLS.value
    certifying = tally.certifying < _CERTIFYING.value and _is_trained(workdir)
    process = _start(workdir)
    kill = any_moment and not _is_trained(workdir)
    if kill:
      alive = _wait(process, moments.uniform(0, length))
    elif certifying:
      alive = _wait(process, moments.uniform(0.2, 1.0) * length)
    elif tally.certifying < _CERTIFYING.value:
      while process.poll() is None and not _is_trained(workdir):
        time.sleep(_POLL)
      alive = _wait(process, moments.uniform(0, 0.3) * length)
    else:
      alive = _wait(process, 600)
    if not alive:
      _, err = process.communicate()
      if process.returncode:
        wrong.append(f"exit code {process.returncode}: {err}")
        print(f"fault: {wrong[-1]}", flush=True)
      return wrong
    trained = _is_trained(workdir)
    count = tally.kills + tally.certifying
    number = _POLITE[count // 3 % 3] if count % 3 == 2 else signal.SIGKILL
    process.send_signal(number)
    trouble = _check_ended(process, number)
    tally.polite += number != signal.SIGKILL
    if trained:
      tally.certifying += 1
    else:
      tally.kills += 1
    found = _newest_whole(workdir)
    if found < newest:
      trouble = f"step {newest} was saved, and now the newest is {found}"
    newest = max(found, newest)
    if trouble:
      wrong.append(trouble)
    where = "certifying" if trained else "training"
    print(f"  {signal.Signals(number).name} while {where}; step {found} saved"
          f"{': ' + trouble if trouble else ''}", flush=True)


def main(argv: list[str]) -> None:
  del argv
  logging.set_verbosity(logging.FATAL)  # Orbax tells what it reads.
  folder = _FOLDER.value or tempfile.mkdtemp(prefix="kills-")
  reference = os.path.join(folder, "reference")
  for _ in range(2):  # The second time, what is compiled is kept already.
    start = time.monotonic()
    subprocess.run(["rm", "-rf", reference], check=True)
    process = _start(reference)
    _, err = process.communicate()
    if process.returncode:
      raise SystemExit(f"the run that is left alone fails: {err}")
    length = time.monotonic() - start
  wanted = results_of.everything(reference)
  print(f"left alone it takes {length:.1f} s", flush=True)

  moments = random.Random(_SEED.value)
  tally, wrong = _Tally(), []
  while (
      tally.kills < _KILLS.value or tally.certifying < _CERTIFYING.value
  ):
    workdir = os.path.join(folder, f"run-{tally.runs}")
    wrong += _run_with_kills(workdir, length, tally, moments)
    tally.runs += 1
    differing = results_of.differences(wanted, results_of.everything(workdir))
    if differing:
      wrong.append(f"{workdir} differs in {', '.join(differing)}")
      print(f"fault: {wrong[-1]}", flush=True)
    print(f"run {tally.runs} ended; {tally.kills} kills, {tally.certifying}"
          f" while certifying; {len(wrong)} faults", flush=True)
  print(f"{tally.kills + tally.certifying} kills, {tally.certifying} while"
        f" certifying, {tally.polite} by signals that are caught;"
        f" {tally.runs} runs ended; {len(wrong)} faults")
  sys.exit(bool(wrong))


if __name__ == "__main__":
  app.run(main)
