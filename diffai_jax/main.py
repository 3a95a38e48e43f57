"""Command line: python -m diffai_jax.main --config=FILE --workdir=FOLDER."""

import contextlib
import os
import sys
import warnings

# Before JAX and TFDS are loaded: their chatter is not for this terminal.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
from diffai_jax.app import process

# In a notebook or a debugger the process, its signals too, is somebody else's.
_OWN_PROCESS = process.is_own("diffai_jax.main", __file__)
if __name__ == "__main__" and _OWN_PROCESS:
  # Before anything that takes time to load.
  from diffai_jax.app import huge_pages, interrupts

  interrupts.end_while_loading()
  huge_pages.restart()

from absl import app, flags, logging

from diffai_jax import processes
from diffai_jax.app import (
    certify_run,
    command_line,
    config_file,
    console,
    interrupts,
    own_network,
    report,
    several,
    train,
    verify,
    workfolder,
)
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.app.validation import get, validate
from diffai_jax.kernels import xla
from diffai_jax.storage import store
from diffai_jax.storage.paths import checked_path
from diffai_jax.text.suggest import nearest, nearest_key, unknown_name
from diffai_jax.types import UsageError, shortened, shown

_MODES = ("train", "certify", "describe", "report", "verify")
_FLAGS = ("config", "workdir", "mode", "property", "seconds", "results")
_CONFIG = flags.DEFINE_string(
    "config", None,
    "config file, such as configs/convsmall.py:mnist,0.1; --config.KEY=VALUE"
    " changes what it says, such as --config.epochs=40"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder for checkpoints, metrics and results"
)
_MODE = flags.DEFINE_string("mode", "train", f"one of {', '.join(_MODES)}")

_PROPERTY = flags.DEFINE_string(
    "property", None,
    "of --mode=verify: a VNN-LIB file, or a list of networks and properties"
    " such as instances.csv"
)
_SECONDS = flags.DEFINE_float(
    "seconds", 60.0, "of --mode=verify, for a property, compiling left out"
)
_RESULTS = flags.DEFINE_string(
    "results", None, "of --mode=verify: file that gets the verdicts"
)

_changes = []  # What --config.KEY=VALUE says, as `command_line` has it.


def main(argv: list[str]) -> None:
  """Does what the flags say; every error of the user's is a UsageError."""
  if len(argv) > 1:
    raise UsageError(
        f"unexpected argument {shown(argv[1])}; every option begins with --"
    )
  mode = _MODE.value
  if mode not in _MODES:
    raise unknown_name("--mode", mode, _MODES)
  if mode == "verify":
    _verify()
    return
  if mode != "describe" and not _WORKDIR.value:
    raise UsageError(
        f"--workdir is missing; --mode={mode} needs a folder, such as"
        f" --workdir=runs/convsmall"
    )
  workdir = _WORKDIR.value
  if workdir:
    workdir = checked_path(workdir, "--workdir")
  if mode == "report":
    if several.another_does(_distributed()):
      return
    path = report.write(workdir)
    report.print_results(workdir)
    console.console.print(f"wrote {path}")
    return
  config = config_file.load(_CONFIG.value, _changes)
  command_line.apply(config, _changes)
  if get(config, "xla_flags"):  # Before anything asks JAX for its devices.
    xla.set_flags()
  validate(config)
  if mode == "describe":
    if several.another_does(config.distributed):
      return
    print(train.Job.from_config(config).describe())
    return
  xla.use_cache(config.compilation_cache)
  several.connect(config)
  with several.ending_together():
    _work(mode, config, workdir)


def _distributed() -> str:
  """What --config.distributed says where no config is read."""
  given = command_line.values_of(_changes)
  return given.get("distributed", base_config().distributed)


def _verify() -> None:
  """Verdicts on properties; of the config the network alone counts."""
  values = command_line.values_of(_changes)
  known = ("network", "distributed")
  other = next((key for key in values if key not in known), None)
  if other is not None:
    raise UsageError(
        f"--config.{other} means nothing to --mode=verify; it takes"
        f" --config.network, --config.distributed, --property, --seconds and"
        f" --results"
    )
  if several.another_does(_distributed()):
    return
  network = values.get("network")
  xla.set_flags()
  xla.use_cache(base_config().compilation_cache)
  verify.run(
      network, _PROPERTY.value, _SECONDS.value, _RESULTS.value
  )


def _work(mode: str, config, workdir: str) -> None:
  """Trains or certifies, perhaps as one of several processes."""
  if mode == "certify" and own_network.is_onnx(config.network):
    there = os.path.join(workdir, workfolder.CONFIG_FILE)
    if not processes.by_first(lambda: store.exists(there)):
      mode, config.epochs = "train", 0.0  # Its weights are trained already.
  if mode == "certify":
    with interrupts.told("while certifying; the same command goes on"):
      certify_run.certify_checkpoint(config, workdir)
  else:
    train.train_and_certify(config, workdir)


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; whatever is wrong with them becomes one line."""
  try:
    argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    rest, changes = command_line.take_changes(argv)
    rest = flags.FLAGS(rest)
  except flags.UnrecognizedFlagError as error:
    raise unknown_flag(error.flagname) from None
  except flags.Error as error:
    raise UsageError(shortened(str(error), 500)) from None
  _changes[:] = changes
  return rest


def unknown_flag(name: str) -> UsageError:
  """The error for --NAME, which may be a key without "config."."""
  guess = nearest(name, _FLAGS)
  if guess is None:
    guess = nearest_key(name.removeprefix("no"), keys_of(base_config()))
    guess = guess and f"config.{guess}"
  hint = f"did you mean --{guess}=?" if guess else (
      f"known: {', '.join(f'--{flag}' for flag in _FLAGS)}, --config.KEY"
  )
  return UsageError(f"unknown flag {shown(f'--{name}')}; {hint}")


def run() -> None:
  """The program: exit code 1 and one message for what the user can mend.

  Asked to end by a signal, it says where it stopped, and its exit code is 128
  and the signal's number. In a process that is not its own it leaves the signals,
  and afterwards the filters of warnings, as they are: a notebook's stop is a
  KeyboardInterrupt.
  """
  logging.set_verbosity(logging.FATAL)
  catching = contextlib.nullcontext()
  if _OWN_PROCESS:
    catching = interrupts.caught(last=True)
  try:
    with (
        warnings.catch_warnings(),
        catching,
        interrupts.told("before anything was done"),
    ):
      if not sys.warnoptions:  # Of libraries, about each other.
        warnings.simplefilter("ignore")
      app.run(main, flags_parser=_parse_flags)
  except UsageError as error:
    console.print_error(str(error), error.detail)
    sys.exit(1)
  except interrupts.Interrupted as error:
    console.print_error(error.message)
    sys.exit(error.exit_code)


if __name__ == "__main__":
  run()
