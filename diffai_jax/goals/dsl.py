"""Objectives as text.

  goal     = "Point" | region | "Sub(" value "," goal ")"
           | "Mix(" goal "," goal "," value ")" | a scheme's name
  region   = "Box" | "HBox" | "HSwitch" | "HSmooth" | "HDeepZ" | "ZBox"
           | "ZSwitch" | "ZSmooth" | "ZDeepZ"
  value    = number | schedule
  schedule = "Lin(" number "," number "," number ["," number] ")"
           | "Until(" number "," value "," value ")"

The text is parsed with `ast` and looked up in a fixed table; nothing in it is
ever evaluated. `str(goal)` is text that parses to an equal goal.
"""

import ast
from collections.abc import Iterable, Mapping
import dataclasses
import itertools
import warnings

from diffai_jax import schedules
from diffai_jax.goals.base import Goal
from diffai_jax.goals.combinators import Mix, Sub
from diffai_jax.goals.points import Point
from diffai_jax.goals.regions import REGIONS
from diffai_jax.suggest import nearest
from diffai_jax.terms import Number, Term
from diffai_jax.types import UsageError

MAX_LENGTH = 4000
MAX_DEPTH = 40
MAX_NUMBER = 10**30  # What float32 can hold, and more than anything means.
CONSTRUCTORS: dict[str, type[Term]] = {
    term.__name__: term
    for term in (
        *map(type, REGIONS.values()),
        Mix, Point, Sub, schedules.Lin, schedules.Until,
    )
}
_KINDS = {
    Goal: "a goal",
    schedules.Value: "a number or a schedule",
    Number: "a number",
}


class ObjectiveError(UsageError):
  """Text that is no objective. `column` counts from 1."""

  def __init__(self, message: str, text: str, column: int):
    column = max(1, min(column, len(text) + 1))
    start = max(0, column - 60)
    shown = "".join(
        c if c.isprintable() else "?" for c in text[start : start + 78]
    )
    super().__init__(
        f"goal: {message} (column {column})",
        f"{shown}\n{' ' * (column - 1 - start)}^",
    )
    self.column = column


def parse(text: str, schemes: Mapping[str, str] = {}) -> Goal:
  """The goal that a text stands for.

  Args:
    text: as in this file's grammar.
    schemes: texts of further goals, by name.

  Raises:
    ObjectiveError: if the text is no goal; names the column, and what was
      probably meant.
  """
  # One line, so that a column is a position; `ast` would take # for a comment.
  text = "".join(" " if c in "\n\r\t\f" else c for c in text[: MAX_LENGTH + 1])
  if len(text) > MAX_LENGTH:
    raise ObjectiveError(
        f"longer than {MAX_LENGTH} characters", text, MAX_LENGTH + 1
    )
  _check_characters(text)
  lead = len(text) - len(text.lstrip())
  if lead == len(text):
    raise ObjectiveError("empty; expected a goal, such as Baseline", text, 1)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", SyntaxWarning)
      tree = ast.parse(text.strip(), mode="eval").body
  except SyntaxError as error:
    column = lead + (error.offset or 1)
    raise ObjectiveError(f"{error.msg}", text, column) from None
  except (RecursionError, MemoryError, ValueError):
    raise ObjectiveError("cannot be read", text, lead + 1) from None
  goal = _Reader(text, lead, schemes).read(tree, Goal)
  # So that whatever is accepted can be read back as it prints.
  written = str(goal)
  if len(written) > MAX_LENGTH or max(_levels(written)) > MAX_DEPTH:
    raise ObjectiveError(
        f"longer than {MAX_LENGTH} characters, or nested deeper than"
        f" {MAX_DEPTH}, when it is written out", text, lead + 1
    )
  return goal


def _levels(text: str) -> list[int]:
  """How many parentheses are open after each character."""
  return list(itertools.accumulate((c == "(") - (c == ")") for c in text))


def _check_characters(text: str) -> None:
  for position, (character, level) in enumerate(zip(text, _levels(text))):
    if not (character.isascii() and (character.isalnum()
                                     or character in " _.,()+-")):
      raise ObjectiveError(
          f"unexpected character {character!r}", text, position + 1
      )
    if level > MAX_DEPTH:
      raise ObjectiveError(
          f"nested deeper than {MAX_DEPTH}", text, position + 1
      )


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Turns the syntax tree of one text into terms."""

  text: str
  lead: int
  schemes: Mapping[str, str]

  def fail(self, node: ast.AST, message: str) -> ObjectiveError:
    column = self.lead + getattr(node, "col_offset", 0) + 1
    return ObjectiveError(message, self.text, column)

  def read(self, node: ast.expr, kind) -> Term | Number:
    """The term or number at `node`, which must be of `kind`."""
    if isinstance(node, ast.Constant) or isinstance(node, ast.UnaryOp):
      value = self._number(node)
      fits = kind is not Goal
    elif isinstance(node, (ast.Name, ast.Call)):
      value = self._term(node)
      fits = isinstance(value, Goal) if kind is Goal else (
          kind is schedules.Value and isinstance(value, schedules.Schedule)
      )
    else:
      raise self.fail(node, f"expected {_KINDS[kind]}")
    if not fits:
      raise self.fail(node, f"expected {_KINDS[kind]}, not {value}")
    return value

  def _number(self, node: ast.expr) -> Number:
    sign = 1
    if isinstance(node, ast.UnaryOp):
      if not isinstance(node.op, (ast.UAdd, ast.USub)):
        raise self.fail(node, "expected a number")
      sign = -1 if isinstance(node.op, ast.USub) else 1
      node = node.operand
    value = getattr(node, "value", None)
    if type(value) not in (int, float):
      raise self.fail(node, "expected a number")
    if not -MAX_NUMBER < value < MAX_NUMBER:
      raise self.fail(node, "this number is too large")
    return sign * value

  def _term(self, node: ast.Name | ast.Call) -> Term:
    name, arguments = node, []
    if isinstance(node, ast.Call):
      name, arguments = node.func, node.args
    if not isinstance(name, ast.Name):
      raise self.fail(name, "expected a name")
    if name.id in self.schemes:
      if isinstance(node, ast.Call):
        raise self.fail(node, f"{name.id} is a scheme; it takes no arguments")
      return parse(self.schemes[name.id])
    if name.id not in CONSTRUCTORS:
      raise self._unknown(name, [*CONSTRUCTORS, *self.schemes])
    return self._build(node, CONSTRUCTORS[name.id], arguments)

  def _build(self, node: ast.expr, make: type[Term], arguments) -> Term:
    fields = dataclasses.fields(make)
    needed = sum(f.default is dataclasses.MISSING for f in fields)
    if not needed <= len(arguments) <= len(fields):
      signature = ", ".join(f.name for f in fields)
      count = f"{needed}" if needed == len(fields) else (
          f"{needed} to {len(fields)}"
      )
      raise self.fail(
          node,
          f"{make.__name__}({signature}) takes {count} arguments, not"
          f" {len(arguments)}",
      )
    term = make(*(
        self.read(argument, field.type)
        for argument, field in zip(arguments, fields)
    ))
    try:
      term.check()
    except ValueError as error:
      raise self.fail(node, str(error)) from None
    return term

  def _unknown(self, node: ast.Name, known: Iterable[str]) -> ObjectiveError:
    guess = nearest(node.id, known)
    hint = f"did you mean {guess}? " if guess else ""
    return self.fail(
        node, f"unknown name {node.id}; {hint}known: {', '.join(known)}"
    )
