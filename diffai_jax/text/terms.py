"""Terms: the frozen dataclasses that objectives are made of, and their text.

A term prints as the constructor call that builds it, `Sub(Lin(0, 1, 150), Box)`,
and `objectives.parse` turns that text back into an equal term.
"""

import dataclasses
from typing import Any

Number = int | float
Place = int | str  # In a network: a layer's name, or by counting.


def number_text(value: Number) -> str:
  """Shortest text that reads back as an equal number: `1`, `0.5`, `1e-05`."""
  if isinstance(value, float) and not (
      value.is_integer() and abs(value) < 1e15
  ):
    return repr(value)
  return str(int(value))


def argument_text(value: Any) -> str:
  """A number or term as text."""
  if isinstance(value, (int, float)):
    return number_text(value)
  return str(value)


class Term:
  """Base of goals and schedules: prints as the text that builds it.

  Subclasses are frozen dataclasses whose fields, in order, are the
  constructor's arguments: numbers or other terms. Arguments that equal their
  default are left out, later ones are then given by name, and a term without
  arguments has no parentheses.
  """

  def check(self) -> None:
    """Raises ValueError, in one line, if an argument is out of range."""

  def __str__(self) -> str:
    words, skipped = [], False
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value == field.default:
        skipped = True
      else:
        name = f"{field.name}=" if skipped else ""
        words.append(name + argument_text(value))
    name = type(self).__name__
    return f"{name}({', '.join(words)})" if words else name
