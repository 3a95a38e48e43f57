"""The text of an objective as a syntax tree, within limits.

Texts come from users: nothing in one is ever evaluated, and limits of length and
depth keep the time to read or refuse one short.
"""

import ast
import itertools
import warnings

from diffai_jax.types import UsageError, on_one_line, shortened, shown

MAX_LENGTH = 4000
MAX_DEPTH = 40  # Of parentheses.
MAX_NESTING = 80  # Of terms, operators included.
_LONGEST_REASON = 800  # Characters; all known names take 600.


class ObjectiveError(UsageError):
  """Text that is no objective.

  Attributes:
    reason: what is wrong, without the place.
    column: the place, from 1.
  """

  def __init__(self, message: str, text: str, column: int):
    message = shortened(on_one_line(message), _LONGEST_REASON)
    column = max(1, min(column, len(text) + 1))
    start = max(0, column - 60)
    excerpt = "".join(
        c if c.isprintable() else "?" for c in text[start : start + 78]
    )
    super().__init__(
        f"goal: {message} (column {column})",
        f"{excerpt}\n{' ' * (column - 1 - start)}^",
    )
    self.reason, self.column = message, column


def syntax_tree(text: str, expected: str) -> tuple[str, int, ast.expr]:
  """The text on one line, the position of the expression in it, and its tree.

  Args:
    text: of any length, with any characters.
    expected: what an empty text should have been.

  Raises:
    ObjectiveError: if it is no expression of Python's grammar, has other
      characters than those of objectives, is too long or nested too deep.
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
    raise ObjectiveError(f"empty; expected {expected}", text, 1)
  try:
    tree = expression(text)
  except SyntaxError as error:
    column = lead + (error.offset or 1)
    raise ObjectiveError(f"{error.msg}", text, column) from None
  except (RecursionError, MemoryError, ValueError):
    raise ObjectiveError("cannot be read", text, lead + 1) from None
  deep = _deeper_than(tree, MAX_NESTING)
  if deep is not None:
    raise ObjectiveError(
        f"nested deeper than {MAX_NESTING}", text, lead + deep + 1
    )
  return text, lead, tree


def expression(text: str) -> ast.expr:
  """The tree of a text, without Python's own warnings of what looks odd in it.

  Raises:
    SyntaxError, RecursionError, MemoryError, ValueError: as `ast.parse`.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", SyntaxWarning)
    return ast.parse(text.strip(), mode="eval").body


def is_within_limits(written: str) -> bool:
  """Whether the text that a term prints as would be read."""
  return (
      len(written) <= MAX_LENGTH
      and max(_levels(written)) <= MAX_DEPTH
      and _deeper_than(expression(written), MAX_NESTING) is None
  )


def _levels(text: str) -> list[int]:
  """How many parentheses are open after each character."""
  return list(itertools.accumulate((c == "(") - (c == ")") for c in text))


def _check_characters(text: str) -> None:
  for position, (character, level) in enumerate(zip(text, _levels(text))):
    if not (character.isascii() and (character.isalnum()
                                     or character in " _.,()+-*/=")):
      raise ObjectiveError(
          f"unexpected character {shown(character)}", text, position + 1
      )
    if level > MAX_DEPTH:
      raise ObjectiveError(
          f"nested deeper than {MAX_DEPTH}", text, position + 1
      )


def _deeper_than(tree: ast.expr, limit: int) -> int | None:
  """The place of a node below more than `limit` others, or None."""
  level = [tree]
  for _ in range(limit):
    if not level:
      return None
    level = [child for node in level for child in ast.iter_child_nodes(node)]
  places = [node.col_offset for node in level if hasattr(node, "col_offset")]
  return min(places) if places else None
