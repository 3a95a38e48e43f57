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


# What other tools call some of our keys, or they were called before.
_OTHER_NAMES = {
    "arch": "network", "model": "network", "loss": "goal", "eps": "epsilon",
    "weight_decay": "optimizer.l2", "wd": "optimizer.l2",
    "domains": "certify.methods",
}


def nearest_key(key: str, known: Iterable[str]) -> str | None:
  """The known key, with dots, that was probably meant, or None.

  One that ends like it; one of a similar name, in its own group or another's;
  one that it abbreviates (lr, optimizer.learning_rate) or shortens.
  """
  known, last = list(known), key.split(".")[-1].lower()
  if last in _OTHER_NAMES and _OTHER_NAMES[last] in known:
    return _OTHER_NAMES[last]
  by_end = {}
  for candidate in sorted(known, key=lambda name: name.count(".")):
    by_end.setdefault(candidate.split(".")[-1].lower(), candidate)
  if last in by_end:
    return by_end[last]
  guess = nearest(key, known) if "." in key else None
  if guess is None and (end := nearest(last, by_end)):
    guess = by_end[end]
  initials = [
      candidate for end, candidate in by_end.items()
      if last and last == "".join(word[:1] for word in end.split("_"))
  ]
  starts = [
      candidate for end, candidate in by_end.items()
      if len(last) > 1 and end.startswith(last)
  ]
  return next(iter([*initials, *starts]), guess)


def unknown_key(key: str, known: Iterable[str]) -> UsageError:
  """The error for a config key that is none of `known`."""
  known = list(known)
  guess = nearest_key(key, known)
  hint = (
      f"did you mean {guess!r}? set it with --config.{guess}=" if guess
      else f"known: {', '.join(known)}"
  )
  return UsageError(f"unknown config key {shown(key)}; {hint}")


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
