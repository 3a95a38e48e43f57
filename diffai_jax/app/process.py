"""Whether this process is a command's own, or somebody else's that runs it.

A command may start its process anew, and handle its signals. A notebook's kernel
(`%run -m diffai_jax.main`), a debugger or a test that runs the same module lives
on after it, and both are its own business.
"""

from collections.abc import Sequence
import os
import sys

# Options of the interpreter that take the next argument, if it is not joined.
_WITH_VALUE = ("W", "X")
_LONG_WITH_VALUE = ("--check-hash-based-pycs",)


def is_own(module: str, path: str, argv: Sequence[str] | None = None) -> bool:
  """Whether the process began as `python -m module` or `python path`.

  Args:
    module: the module's name with dots.
    path: of the module's file.
    argv: the interpreter's whole command line; None is this process's.
  """
  kind, program = _program(sys.orig_argv if argv is None else argv)
  if kind == "module":
    return program == module
  return kind == "file" and os.path.realpath(program) == os.path.realpath(path)


def _program(argv: Sequence[str]) -> tuple[str, str]:
  """What an interpreter was told to run: ("module" or "file", its name).

  ("", "") for anything else, such as -c and standard input.
  """
  words = iter(argv[1:])
  for word in words:
    if word in _LONG_WITH_VALUE:
      next(words, None)
    elif word.startswith("--"):
      continue
    elif not word.startswith("-"):
      return "file", word
    elif word == "-":
      break
    else:
      for place, letter in enumerate(word[1:], 2):
        if letter == "m":
          return "module", word[place:] or next(words, "")
        if letter == "c":
          return "", ""
        if letter in _WITH_VALUE:
          if not word[place:]:
            next(words, None)
          break
  return "", ""
