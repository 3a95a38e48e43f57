"""Names that every floor shares: arrays, the mode, the user's error."""

import enum
import reprlib
from typing import Any

import jax

Array = jax.Array
PRNGKey = jax.Array
AXIS = "devices"  # The name of the axis that pmap splits a batch along.


LONGEST_VALUE = 100  # Characters of one value in a message.


def on_one_line(text: str) -> str:
  """The text with every character that does not print as Python escapes it.

  Line ends, terminal codes and what is left of a path that is no UTF-8.
  """
  if text.isprintable():
    return text
  return "".join(
      c if c.isprintable() else c.encode("unicode_escape").decode()
      if not "\ud800" <= c <= "\udfff" else f"\\u{ord(c):04x}"
      for c in text
  )


def shortened(text: str, longest: int = LONGEST_VALUE) -> str:
  """The text, cut to that many characters with an ellipsis at its end."""
  return text if len(text) <= longest else text[: longest - 3] + "..."


def reason(error: Exception) -> str:
  """What an exception of a library's says, for a message: its first line."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return shortened(on_one_line(lines[0]), 2 * LONGEST_VALUE)


class _Shown(reprlib.Repr):
  """`repr`, of values of any size and depth in a moment."""

  def __init__(self):
    super().__init__()
    self.maxlevel = 4
    self.maxtuple = self.maxlist = self.maxdict = LONGEST_VALUE
    self.maxset = self.maxfrozenset = LONGEST_VALUE
    self.maxother = 10 * LONGEST_VALUE

  def repr_str(self, value: str, level: int) -> str:
    return shortened(repr(value[: LONGEST_VALUE + 1]))

  repr_bytes = repr_str

  def repr_int(self, value: int, level: int) -> str:
    if value.bit_length() <= 1000:
      return repr(value)
    # Python refuses to write out what has more than some thousand digits.
    digits = value.bit_length() * 30103 // 100000
    return f"{'-' * (value < 0)}1e{digits} or so"

  def repr_ConfigDict(self, value, level: int) -> str:
    return self.repr1(value.to_dict(), level)


def shown(value: Any) -> str:
  """A value that a user gave, for a message: like `repr`, but short.

  Args:
    value: anything: texts of any length, numbers of any size, whole configs.

  Returns:
    At most LONGEST_VALUE characters, all of them printable.
  """
  return shortened(on_one_line(_Shown().repr(value)))


class Mode(enum.Enum):
  """What flows through a network, and which abstract layers act.

  CONCRETE: arrays flow; every abstract layer is the identity.
  TRAIN: abstract elements flow; every abstract layer acts.
  CERTIFY: abstract elements flow; layers with `only_train=True` are the
    identity (paper, section 3).
  """

  CONCRETE = "concrete"
  TRAIN = "train"
  CERTIFY = "certify"


class UsageError(Exception):
  """Something the user gave cannot be used.

  The message is one line: the value, what was expected, what to do. `main`
  prints it without a traceback.

  Attributes:
    detail: further lines that show the place, such as a marked text, or "".
  """

  def __init__(self, message: str, detail: str = ""):
    super().__init__(message)
    self.detail = detail


class ArgumentError(UsageError, ValueError):
  """An argument of a function of the front door that cannot be used."""
