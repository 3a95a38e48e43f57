"""Terms: the frozen dataclasses that objectives are made of, and their text.

A term prints as the constructor call that builds it, `Sub(Lin(0, 1, 150), Box)`,
and `goals.dsl.parse` turns that text back into an equal term.
"""

import dataclasses
from typing import Any

Number = int | float


def number_text(value: Number) -> str:
  """Shortest text that reads back as an equal number: `1`, `0.5`, `1e-05`."""
  if isinstance(value, float) and not (
      value.is_integer() and abs(value) < 1e15
  ):
    return repr(value)
  return str(int(value))


def _argument_text(value: Any) -> str:
  if isinstance(value, (int, float)):
    return number_text(value)
  return str(value)


class Term:
  """Base of goals and schedules: prints as the text that builds it.

  Subclasses are frozen dataclasses whose fields, in order, are the
  constructor's arguments: numbers or other terms. Trailing arguments that
  equal their default are left out, and so are the parentheses of a term
  without arguments.
  """

  def check(self) -> None:
    """Raises ValueError, in one line, if an argument is out of range."""

  def __str__(self) -> str:
    fields = [f for f in dataclasses.fields(self) if f.init]
    values = [getattr(self, f.name) for f in fields]
    while fields and values[-1] == fields[-1].default:
      fields.pop()
      values.pop()
    name = type(self).__name__
    if not values:
      return name
    return f"{name}({', '.join(map(_argument_text, values))})"
