"""Command line: python -m diffai_jax.main --config=FILE --workdir=FOLDER."""

import os
import re
import sys
import warnings

# Before JAX and TFDS are loaded: their chatter is not for this terminal.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
if __name__ == "__main__":  # Before anything that takes time to load.
  from diffai_jax import huge_pages

  huge_pages.restart()

from absl import app, flags, logging
from ml_collections import config_dict, config_flags

from diffai_jax import certify_run, console, report, train, xla
from diffai_jax.types import UsageError

_MODES = ("train", "certify", "describe", "report")
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "config file, such as configs/convsmall.py:mnist,0.1"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder for checkpoints, metrics and results"
)
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "what to do")


def main(argv: list[str]) -> None:
  """Does what the flags say; every error of the user's is a UsageError."""
  if len(argv) > 1:
    raise UsageError(
        f"unexpected argument {argv[1]!r}; every option begins with --"
    )
  mode = _MODE.value
  if mode != "describe" and not _WORKDIR.value:
    raise UsageError(
        f"--workdir is missing; --mode={mode} needs a folder, such as"
        f" --workdir=runs/convsmall"
    )
  if mode == "report":
    path = report.write(_WORKDIR.value)
    report.print_results(_WORKDIR.value)
    console.console.print(f"wrote {path}")
    return
  config = _config()
  if config.get("xla_flags"):
    xla.set_flags()
  if mode == "describe":
    print(train.Job.from_config(config).describe())
    return
  xla.use_cache(config.get("compilation_cache") or "")
  if mode == "certify":
    certify_run.certify_checkpoint(config, _WORKDIR.value)
  else:
    train.train_and_certify(config, _WORKDIR.value)


def _config() -> config_dict.ConfigDict:
  """The config that --config names, with what the flags change in it."""
  flag = flags.FLAGS["config"]
  if not flag.present:
    raise UsageError(
        "--config is missing; give a config file, such as"
        " --config=configs/quickstart.py"
    )
  if not isinstance(_CONFIG.value, config_dict.ConfigDict):
    name = config_flags.get_config_filename(flag)
    wrong = (
        "has no get_config() that returns a ConfigDict"
        if os.path.isfile(name)
        else "does not exist"
    )
    raise UsageError(
        f"config file {name!r} {wrong}; give one such as"
        f" --config=configs/quickstart.py"
    )
  return _CONFIG.value


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; whatever is wrong with them becomes one line."""
  try:
    return flags.FLAGS(argv)
  except UsageError:
    raise
  except Exception as error:  # A config file may raise anything.
    cause = error
    while cause is not None and not isinstance(cause, UsageError):
      cause = cause.__cause__ or cause.__context__
    raise cause or UsageError(_one_line(error)) from None


def _one_line(error: Exception) -> str:
  text = str(error).strip()
  if "Traceback" in text:  # Of a config file; what it raised comes last.
    text = f"the config file raised {text.splitlines()[-1]}"
  text = " ".join(text.split())
  if isinstance(error, AttributeError):  # Of ml_collections, in many quotes.
    names = re.findall(r"""['"](\w+)\\?['"]""", text) or [text]
    hint = f"; did you mean {names[1]!r}?" if len(names) > 1 else ""
    return f"unknown config key {names[0]!r}{hint}"
  return text or type(error).__name__


def run() -> None:
  """The program: exit code 1 and one message for what the user can mend."""
  logging.set_verbosity(logging.FATAL)
  warnings.filterwarnings("ignore", module="orbax|tensorboardX")
  try:
    app.run(main, flags_parser=_parse_flags)
  except UsageError as error:
    console.print_error(str(error), error.detail)
    sys.exit(1)
  except KeyboardInterrupt:
    console.print_error(
        "interrupted; the same command goes on from the last checkpoint"
    )
    sys.exit(130)


if __name__ == "__main__":
  run()
