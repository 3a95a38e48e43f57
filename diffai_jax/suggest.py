"""Errors for names that do not exist: what was meant, and what there is."""

from collections.abc import Iterable
import difflib

from diffai_jax.types import LONGEST_VALUE, UsageError, shown


def nearest(name: str, known: Iterable[str]) -> str | None:
  """The known name most like `name`, whatever its case, or None."""
  by_lower = {candidate.lower(): candidate for candidate in known}
  if len(name) > LONGEST_VALUE:  # Comparing takes the square of that.
    return None
  close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
  return by_lower[close[0]] if close else None


def unknown_name(kind: str, name, known: Iterable[str]) -> UsageError:
  """The error for a name that is none of `known`, with the nearest one.

  Args:
    kind: what it should name, such as "network".
    name: what the user gave, of any type.
    known: the names that there are.
  """
  known = list(known)
  guess = nearest(name, known) if isinstance(name, str) else None
  hint = f"did you mean {guess!r}? " if guess else ""
  return UsageError(
      f"unknown {kind} {shown(name)}; {hint}known: {', '.join(known)}"
  )
