"""VNN-LIB's syntax: text, to nested lists of words with their places."""

from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import gzip
import os
import re
import zlib

from diffai_jax.types import UsageError, reason, shown

_DEEPEST = 100  # Parentheses inside of each other.
_TOKEN = re.compile(r"[()]|;[^\n]*|[ \t\r\f]+|\n|[^\s();]+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE]([+-]?\d+))?")
# More than the longest decimal that a float of 64 bits is exactly.
_LONGEST_NUMBER, _LARGEST_EXPONENT = 1200, 400


@dataclasses.dataclass(frozen=True)
class Place:
  """Where in which file, from line 1 and column 1 on."""

  file: str
  line: int
  column: int

  def error(self, message: str) -> UsageError:
    return UsageError(
        f"{self.file}, line {self.line}, column {self.column}: {message}"
    )


@dataclasses.dataclass(frozen=True)
class Word:
  """A name, number or operator."""

  text: str
  place: Place

  def __str__(self) -> str:
    return self.text


@dataclasses.dataclass(frozen=True)
class Group:
  """What stands in a pair of parentheses."""

  parts: tuple["Word | Group", ...]
  place: Place

  @property
  def head(self) -> str:
    """The first word; "" if there is none."""
    first = self.parts[0] if self.parts else None
    return first.text if isinstance(first, Word) else ""

  def __str__(self) -> str:
    inner = " ".join(
        part.text if isinstance(part, Word) else "(...)" for part in self.parts
    )
    return f"({inner})"


def read_text(path: str) -> str:
  """The text of a file, gzipped or not.

  Raises:
    UsageError: in one line, if it cannot be read.
  """
  try:
    with open(path, "rb") as file:
      content = file.read()
    if content[:2] == b"\x1f\x8b":
      content = gzip.decompress(content)
    return content.decode("utf-8")
  except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
    why = getattr(error, "strerror", None) or reason(error)
    raise UsageError(
        f"cannot read {shown(os.fspath(path))} ({why}); give a file of VNN-LIB,"
        f" as it is or gzipped"
    ) from None


def groups(text: str, file: str) -> list[Group]:
  """The outermost groups of a text.

  No function calls itself, and depth is bounded, so that no text can exhaust the
  stack, here or in functions that walk down a group.

  Raises:
    UsageError: in one line with the place, if parentheses do not fit.
  """
  found: list[Group] = []
  open_groups: list[tuple[Place, list]] = []
  for word in _words(text, file):
    if word.text == "(":
      if len(open_groups) == _DEEPEST:
        raise word.place.error(
            f"parentheses are more than {_DEEPEST} deep; write it flatter"
        )
      open_groups.append((word.place, []))
    elif word.text == ")":
      if not open_groups:
        raise word.place.error("')' closes nothing; remove it")
      place, parts = open_groups.pop()
      into = open_groups[-1][1] if open_groups else found
      into.append(Group(tuple(parts), place))
    elif not open_groups:
      raise word.place.error(
          f"{shown(word.text)} stands outside of parentheses; expected"
          f" (declare-const ...) or (assert ...)"
      )
    else:
      open_groups[-1][1].append(word)
  if open_groups:
    raise open_groups[-1][0].error("'(' is never closed; add ')'")
  return found


def _words(text: str, file: str) -> Iterator[Word]:
  """Words and parentheses; comments and white space are left out."""
  line, start = 1, 0
  for match in _TOKEN.finditer(text):
    token = match[0]
    if token == "\n":
      line, start = line + 1, match.end()
    elif token[0] not in "; \t\r\f":
      yield Word(token, Place(file, line, match.start() - start + 1))


def number(word: Word) -> Fraction | None:
  """The exact value of a decimal; None if the word is none.

  Raises:
    UsageError: if it is longer or larger than any float is.
  """
  match = _NUMBER.fullmatch(word.text)
  if not match:
    return None
  exponent = match[3] or "0"
  if (
      len(word.text) > _LONGEST_NUMBER or len(exponent) > 6
      or abs(int(exponent)) > _LARGEST_EXPONENT
  ):
    raise word.place.error(
        f"{shown(word.text)} has more digits than a number here can have;"
        f" at most {_LONGEST_NUMBER}, and exponents to {_LARGEST_EXPONENT}"
    )
  return Fraction(word.text)
