"""Damages each file of a finished work folder, and asks each mode what it says.

  python -m benchmarks.damage --count=300

Each file is truncated, emptied, filled with zeros, deleted, replaced by a
folder, or has one bit flipped, in a copy; then --mode=train, certify and report
are run, each on a copy of its own. Each must give the same results, or those of
an older checkpoint with a warning, or an error of one line: never a traceback,
never other numbers. All runs are in one process. Takes some seconds a damaged
file; ends with exit code 1 if there is a fault.
"""

import collections
from collections.abc import Callable
import contextlib
import io
import os
import random
import re
import shutil
import sys
import tempfile
import traceback

from absl import app, flags
from absl.testing import flagsaver

from benchmarks import results_of
from diffai_jax import main as program
from diffai_jax.app import report
from diffai_jax.training import checkpoints

_COUNT = flags.DEFINE_integer("count", 300, "of damaged files")
_SEED = flags.DEFINE_integer("seed", 0, "of places and bits")
_FOLDER = flags.DEFINE_string("folder", None, "of the runs; else a new one")
_MODES = ("train", "certify", "report")
_SETTINGS = (
    "--config=configs/quickstart.py", "--config.network=FFNN",
    "--config.epochs=1", "--config.checkpoint_minutes=0.0001",
    "--config.certify.examples=10", "--config.certify.attack.steps=1",
    "--config.certify.methods=('Box',)",
    "--config.goal=Mix(Point, Box, 0.5)",
)


def _truncate(path: str, moments: random.Random) -> None:
  os.truncate(path, moments.randrange(max(os.path.getsize(path), 1)))


def _empty(path: str, moments: random.Random) -> None:
  os.truncate(path, 0)


def _zero(path: str, moments: random.Random) -> None:
  size = os.path.getsize(path)
  with open(path, "wb") as file:
    file.write(bytes(size))


def _flip(path: str, moments: random.Random) -> None:
  with open(path, "rb") as file:
    content = bytearray(file.read())
  if content:
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
  with open(path, "wb") as file:
    file.write(content)


def _delete(path: str, moments: random.Random) -> None:
  os.unlink(path)


def _folder(path: str, moments: random.Random) -> None:
  os.unlink(path)
  os.mkdir(path)


# A bit can be flipped in many places: three times as often as the others.
_DAMAGES: tuple[tuple[str, Callable], ...] = (
    ("one bit flipped", _flip), ("truncated", _truncate), ("emptied", _empty),
    ("one bit flipped", _flip), ("zeroed", _zero), ("deleted", _delete),
    ("one bit flipped", _flip), ("replaced by a folder", _folder),
)


def _run(workdir: str, mode: str, *more: str) -> tuple[int, str]:
  """Exit code and stderr of the command, in this process."""
  err = io.StringIO()
  sys.modules.pop("config_config", None)  # Each start reads its config file.
  before = sys.argv
  sys.argv = [
      "main.py", *_SETTINGS, f"--workdir={workdir}", f"--mode={mode}", *more
  ]
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    for name in ("config", "workdir", "mode"):
      flags.FLAGS[name].unparse()
    try:
      with (
          contextlib.redirect_stdout(io.StringIO()),
          contextlib.redirect_stderr(err),
      ):
        program.run()
      code = 0
    except SystemExit as error:
      code = error.code or 0
    except Exception:  # What a user would see as a traceback.
      code = 1
      err.write(traceback.format_exc())
    finally:
      sys.argv = before
  return code, err.getvalue()


def _rows(workdir: str) -> list[str]:
  """The accuracies in report.html, without their times; [] without a page."""
  path = os.path.join(workdir, report.FILE)
  if not os.path.isfile(path):
    return []
  with open(path, encoding="utf-8") as file:
    page = file.read()
  return re.findall(r"<tr><td>[a-z]+ accuracy.*?</td><td>[\d.]+</td>", page)


def _fault(
    code: int, err: str, mode: str, workdir: str, wanted: dict,
    older: list[dict], rows: list[str],
) -> str | None:
  """What is wrong with how a mode took the damage, or None.

  Args:
    code, err: exit code and stderr.
    mode: which mode.
    workdir: where it ran.
    wanted: what the folder says that was not damaged.
    older: what it says once each older checkpoint is certified, too.
    rows: the accuracies on its page.
  """
  lines = err.splitlines()
  warnings = [line for line in lines if line.startswith("warning: ")]
  if code:
    errors = [line for line in lines if line.startswith("error: ")]
    whole = len(errors) == 1 and len(lines) == len(errors) + len(warnings)
    return None if code == 1 and whole else f"exit code {code}: {err}"
  if len(warnings) < len(lines):
    return f"says {err!r}"
  if mode == "report":
    new = [row for row in _rows(workdir) if row not in rows]
    return f"other numbers on the page: {new}" if new else None
  found = results_of.certifications(workdir)
  if mode == "train":
    found = results_of.everything(workdir)
  else:
    wanted = {k: v for k, v in wanted.items() if k != "checkpoint"}
  differing = results_of.differences(wanted, found)
  skipped = any(" is used instead" in line for line in warnings)
  if not differing or (skipped and found in older):
    return None
  return f"other results, {err!r}: {', '.join(differing)}"


def _older(workdir: str, copy: str) -> list[dict]:
  """What the folder says once an older checkpoint is certified, too."""
  found = []
  paths = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  for path in paths[1:]:
    shutil.copytree(workdir, copy)
    named = os.path.join(copy, os.path.relpath(path, workdir))
    code, err = _run(copy, "certify", f"--config.checkpoint={named}")
    if code:
      raise SystemExit(f"certifying an older checkpoint fails: {err}")
    found.append(results_of.certifications(copy))
    shutil.rmtree(copy)
  return found


def main(argv: list[str]) -> None:
  del argv
  count, seed = _COUNT.value, _SEED.value
  folder = _FOLDER.value or tempfile.mkdtemp(prefix="damage-")
  good = os.path.join(folder, "good")
  for mode in ("train", "certify", "report"):
    code, err = _run(good, mode)
    if code:
      raise SystemExit(f"--mode={mode} fails without damage: {err}")
  wanted, rows = results_of.everything(good), _rows(good)
  damaged, copy = (os.path.join(folder, name) for name in ("damaged", "copy"))
  older = _older(good, copy)
  names = sorted(
      os.path.relpath(os.path.join(parent, name), good)
      for parent, _, names in os.walk(good) for name in names
  )
  print(f"{len(names)} files, {len(older)} older checkpoints", flush=True)

  moments = random.Random(seed)
  cases = [(name, damage) for name in names for damage in _DAMAGES]
  moments.shuffle(cases)
  while len(cases) < count:  # Other bits and places.
    cases += cases
  outcomes, faults = collections.Counter(), []
  for number, (name, (what, damage)) in enumerate(cases[:count]):
    shutil.copytree(good, damaged)
    damage(os.path.join(damaged, name), moments)
    for mode in _MODES:
      shutil.copytree(damaged, copy)
      code, err = _run(copy, mode)
      fault = _fault(code, err, mode, copy, wanted, older, rows)
      shutil.rmtree(copy)
      kind = "one line" if code else "went on"
      outcomes["fault" if fault else f"{mode}: {kind}"] += 1
      if fault:
        faults.append(f"{name} {what}, --mode={mode}: {fault}")
        print(f"fault: {faults[-1]}", flush=True)
    shutil.rmtree(damaged)
    if number % 20 == 19:
      print(f"{number + 1} of {count}, {len(faults)} faults", flush=True)
  for kind, times in sorted(outcomes.items()):
    print(f"{times:5} {kind}")
  print(f"{count} damaged files, {len(faults)} faults")
  sys.exit(bool(faults))


if __name__ == "__main__":
  app.run(main)
