"""A config file: --config=FILE[:VARIANT], a program that makes a config.

Whatever goes wrong in it becomes one line that says where.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback

from diffai_jax.app import command_line, config_dict
from diffai_jax.app.config import base_config
from diffai_jax.app.validation import epsilon_of
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, on_one_line, shortened, shown

_ADVICE = "give one such as --config=configs/quickstart.py"
_MODULE = "diffai_jax_config"  # A config file's name as a module.


def load(
    given: str | None, changes: Sequence[command_line.Change] = ()
) -> config_dict.ConfigDict:
  """The config that a file makes.

  `get_config` gets the text after the colon, if there is one, and the values of
  the flags that it has arguments for: `epsilon`, say, or all, by their keys, as
  `**flags`. So a file can choose settings by what a flag says. It may import
  other files of its folder.

  Args:
    given: the file, and after a colon the variant of its settings.
    changes: what flags change. `apply` makes the changes; this does not.

  Raises:
    UsageError: if there is no such file, or it makes no config.
  """
  if not given:
    raise UsageError(f"--config is missing; {_ADVICE}")
  path, colon, variant = given.partition(":")
  path = checked_path(path, "--config")
  if not os.path.isfile(path):
    wrong = "does not exist"
    if os.path.exists(path):
      wrong = "is a folder" if os.path.isdir(path) else "is no file"
    raise UsageError(f"config file {shown(path)} {wrong}; {_ADVICE}")
  module = _run(path, lambda: _module(path))
  make = getattr(module, "get_config", None)
  config = None
  if callable(make):
    values = command_line.values_of(changes)
    if "epsilon" in values:
      base = base_config()
      base.epsilon = values["epsilon"]
      values["epsilon"] = epsilon_of(base, any_range=True)
    variants = (variant,) if colon else ()
    config = _run(path, lambda: make(*variants, **_taken(make, values)))
  if not isinstance(config, config_dict.ConfigDict):
    raise UsageError(
        f"config file {shown(path)} has no get_config() that returns a"
        f" ConfigDict; {_ADVICE}"
    )
  config.lock()
  return config


def _module(path: str):
  """The module that the file is."""
  # By its content alone: a file of any name, and no old __pycache__.
  loader = importlib.machinery.SourceFileLoader(_MODULE, path)
  spec = importlib.util.spec_from_file_location(_MODULE, path, loader=loader)
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  code = compile(loader.get_data(path), path, "exec")
  exec(code, module.__dict__)  # pylint: disable=exec-used
  return module


def _taken(make: Callable, values: dict) -> dict:
  """The values that `make` has arguments for."""
  arguments = inspect.signature(make).parameters
  if any(found.kind is found.VAR_KEYWORD for found in arguments.values()):
    return values
  return {key: values[key] for key in values if key in arguments}


@contextlib.contextmanager
def _neighbours(path: str) -> Iterator[None]:
  """Lets a config file import files of its folder, as a script can.

  They are forgotten afterwards: files of another folder may have their names.
  """
  folder = os.path.dirname(os.path.abspath(path))
  before = {*sys.modules, _MODULE}
  sys.path.insert(0, folder)
  try:
    yield
  finally:
    if folder in sys.path:
      sys.path.remove(folder)
    for name in set(sys.modules) - before:
      file = getattr(sys.modules[name], "__file__", None)
      if file and os.path.dirname(os.path.abspath(file)) == folder:
        del sys.modules[name]


def _run(path: str, run):
  """What `run` returns; whatever a user's program raises becomes one line."""
  try:
    with _neighbours(path):
      return run()
  except UsageError:
    raise
  except OSError as error:
    if error.filename == path:
      raise UsageError(
          f"config file {shown(path)} cannot be read: {error.strerror};"
          f" {_ADVICE}"
      ) from None
    raise _raised(path, error) from None
  except (Exception, SystemExit) as error:  # It may raise anything.
    raise _raised(path, error) from None


def _raised(path: str, error: BaseException) -> UsageError:
  """The error of a config file: what was raised, and in which line of it."""
  text = str(error)
  if isinstance(error, SyntaxError) and error.filename == path:
    line, text = error.lineno, error.msg
  else:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == path
    ]
    line = lines[-1] if lines else None
  place = f" in line {line}" if line else ""
  reason = shortened(on_one_line(text), 300)
  kind = type(error).__name__
  return UsageError(
      f"config file {shown(path)} raised {kind}{place}"
      + (f": {reason}" if reason else "") + "; correct the file"
  )
