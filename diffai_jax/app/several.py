"""A command that several processes run: they begin, agree and end together."""

from collections.abc import Callable, Iterator
import contextlib
import json
import sys
import traceback

import numpy as np

from diffai_jax import processes
from diffai_jax.app import config_dict, console, interrupts
from diffai_jax.app.config import keys_of
from diffai_jax.app.validation import get
from diffai_jax.data import Examples
from diffai_jax.processes import environment
from diffai_jax.storage import sealed
from diffai_jax.types import UsageError, reason

# Keys whose values may be others on each machine.
_OF_THE_MACHINE = (
    "compilation_cache", "data_dir", "distributed", "xla_flags",
)


def connect(config: config_dict.ConfigDict) -> None:
  """Joins the other processes, if there are any; the first one alone prints.

  Raises:
    UsageError: if config.distributed cannot be used.
  """
  processes.connect(config.distributed)
  watch = processes.current()
  if watch is None:
    return
  interrupts.before_end(watch.announce)
  if not processes.is_first():
    console.silence()


def another_does(spec: str) -> bool:
  """Whether a command that one process does alone is the first one's.

  For what needs no other process, so that nothing connects.

  Args:
    spec: config.distributed.

  Raises:
    UsageError: if it cannot be used.
  """
  place = environment.place_of(spec)
  return place is not None and place.index > 0


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
  """What ends this process ends all, with one exit code, and is told once.

  With one process everything is left as it is.
  """
  try:
    yield
  except BaseException as error:
    watch = processes.current()
    if watch is None or isinstance(error, SystemExit) and not error.code:
      raise
    _end(watch, error)
  processes.disconnect()


def _end(watch, error: BaseException) -> None:
  if isinstance(error, UsageError):
    watch.fail(
        str(error), 1, lambda text: console.print_error(text, error.detail)
    )
  if isinstance(error, interrupts.Interrupted):
    watch.fail(error.message, error.exit_code, console.print_error)
  # Perhaps of a collective that another process has left.
  trace = "".join(traceback.format_exception(error))
  watch.fail(
      f"{type(error).__name__}: {reason(error)}", 1,
      lambda text: print(trace, end="", file=sys.stderr), unexpected=True,
  )


def require_same_config(config: config_dict.ConfigDict) -> None:
  """Checks that all processes do the same.

  Raises:
    UsageError: in all of them, if they do not.
  """
  if processes.count() == 1:
    return
  own = {
      key: get(config, key) for key in keys_of(config)
      if key not in _OF_THE_MACHINE
  }
  own = json.loads(json.dumps(own, default=str))
  first = processes.by_first(lambda: own)
  changed = [key for key in own if own[key] != first.get(key)]

  def check() -> None:
    if changed:
      told = ", ".join(
          f"{key} ({first.get(key)}, here {own[key]})" for key in changed[:4]
      )
      raise UsageError(
          f"this process has another config than the first one: it differs in"
          f" {told}; give all of them the same flags"
      )

  processes.together(check)


def loaded(*loads: Callable[[], Examples]) -> list[Examples]:
  """Examples, once every process has them, and has the same.

  Args:
    *loads: each reads some.

  Raises:
    UsageError: in all processes, if one has none or others.
  """
  found = processes.together(lambda: [load() for load in loads])
  if processes.count() == 1:
    return found
  digests = np.stack([
      np.frombuffer(
          bytes.fromhex(sealed.digest_of_arrays([x.images, x.labels])), np.uint8
      )
      for x in found
  ])
  everyone = processes.gathered(digests)
  for number, theirs in enumerate(everyone):
    if np.any(theirs != everyone[0]):
      raise UsageError(
          f"process {number} of {len(everyone)} has other images or labels than"
          f" the first one; give all of them copies of the same files"
      )
  return found
