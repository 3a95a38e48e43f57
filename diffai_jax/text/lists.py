"""Lists as text, and as they are given: words which may have arguments."""

from typing import Any

from diffai_jax.types import UsageError, shown


def several(given: Any, kind: type, what: str, example: str) -> tuple:
  """What a sequence of texts and objects has.

  Args:
    given: the sequence.
    kind: of the objects.
    what: the argument's name, for messages, such as "methods".
    example: of such a sequence.

  Raises:
    UsageError: if it is one text or object alone, or no sequence.
  """
  if isinstance(given, (str, kind)):
    raise UsageError(
        f"{what} is {shown(str(given))} alone; expected a sequence of {what},"
        f" such as ({shown(str(given))},)"
    )
  try:
    return tuple(given)
  except TypeError:
    raise UsageError(
        f"{what} is {shown(given)}; expected a sequence of {what}, such as"
        f" {example}"
    ) from None


def split(text: str) -> tuple[str, ...]:
  """The words of a list such as "Box, AlphaCROWN(20, HBox)".

  Commas within brackets part nothing. Brackets around all of it, empty words and
  quotes around one are left out.
  """
  text = text.strip()
  while _is_wrapped(text):
    text = text[1:-1].strip()
  words, depth, start = [], 0, 0
  for place, character in enumerate(text):
    depth += (character in "([") - (character in ")]")
    if character == "," and depth <= 0:
      words.append(text[start:place])
      start = place + 1
  words.append(text[start:])
  stripped = (word.strip().strip("'\"") for word in words)
  return tuple(word for word in stripped if word)


def _is_wrapped(text: str) -> bool:
  """Whether one pair of brackets has all of the text inside."""
  if text[:1] + text[-1:] not in ("()", "[]"):
    return False
  depth = 0
  for character in text[:-1]:
    depth += (character in "([") - (character in ")]")
    if depth == 0:
      return False
  return True
