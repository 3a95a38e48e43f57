"""What the flags of a command line change in a config.

  --config.KEY=VALUE   --config.KEY VALUE   --config.KEY   --noconfig.KEY

Texts of values are read by the kind that a key has in `config.base_config`.
`ml_collections.config_flags` parses values alike, but its errors are other
libraries' messages; here each is one line that says what to do.
"""

import ast
from collections.abc import Sequence
import re
import warnings

from diffai_jax.app import config_dict
from diffai_jax.app.config import base_config, groups_of, keys_of, kind_of
from diffai_jax.app.validation import get
from diffai_jax.text import lists
from diffai_jax.text.suggest import unknown_key
from diffai_jax.types import UsageError, shown

Change = tuple[str, str | None]  # A key with dots, and the text of its value.

_FLAG = re.compile(r"--?(no)?config\.([^=]*)(=(.*))?", re.DOTALL)
_WORDS = {
    "true": True, "t": True, "yes": True, "1": True,
    "false": False, "f": False, "no": False, "0": False,
}
_NOTHING = ("none", "null")
_LONGEST_LITERAL = 100_000  # Characters.


def take_changes(argv: Sequence[str]) -> tuple[list[str], list[Change]]:
  """Parts what changes a config from the other arguments.

  Args:
    argv: the command line; its first word is the program.

  Returns:
    The other arguments, and the changes in their order.

  Raises:
    UsageError: if a key does not exist, or has no value.
  """
  base = base_config()
  known, rest, changes = keys_of(base), [], []
  words = iter(argv)
  for word in words:
    if word == "--":
      rest += [word, *words]
      break
    match = _FLAG.fullmatch(word)
    if match is None:
      rest.append(word)
      continue
    negated, key, equals, text = match.groups()
    key = key.strip()
    if key in groups_of(base):
      first = next(name for name in known if name.startswith(key + "."))
      raise UsageError(
          f"{key} is a group of keys; set one of them, such as"
          f" --config.{first}="
      )
    if key not in known:
      raise unknown_key(key, known)
    switch = kind_of(base, key) is bool
    if negated and (equals or not switch):
      raise UsageError(
          f"{shown(word)} cannot be read: --noconfig. is for keys that are true"
          f" or false, without a value; use --config.{key}=VALUE"
      )
    if not equals and switch:
      text = "false" if negated else "true"
    elif not equals:
      text = next(words, None)
      if text is None or text.startswith("--"):
        raise UsageError(
            f"--config.{key} has no value; set it with --config.{key}=VALUE"
        )
    changes.append((key, text))
  return rest, changes


def values_of(changes: Sequence[Change]) -> dict:
  """The last value of each key; of a list all of its values.

  Raises:
    UsageError: if a text is no value of its key.
  """
  base, values = base_config(), {}
  for key, text in changes:
    value = parse(key, text, base)
    if isinstance(value, tuple):
      value = (values.get(key) or ()) + value
    values[key] = value
  return values


def apply(config: config_dict.ConfigDict, changes: Sequence[Change]) -> None:
  """Changes a config; a list that is given in several flags has all of them.

  Raises:
    UsageError: if a text is no value of its key, or the config has no such
      key.
  """
  for key, value in values_of(changes).items():
    *groups, last = key.split(".")
    holder = config
    for group in groups:
      holder = holder.get(group) if _is_config(holder) else None
    if not _is_config(holder) or last not in holder:
      raise UsageError(
          f"the config has no key {shown(key)}; a config file begins with"
          f" diffai_jax.app.config.base_config()"
      )
    with holder.unlocked(), holder.ignore_type():
      del holder[last]  # With the type that the file may have given it.
      holder[last] = value


def _is_config(value) -> bool:
  return isinstance(value, config_dict.ConfigDict)


def parse(key: str, text: str, base: config_dict.ConfigDict):
  """The value of a key that a text stands for.

  Args:
    key: one of `base`'s, with dots.
    text: as it stands after --config.KEY=.
    base: `base_config()`, which has the kinds of all keys.

  Raises:
    UsageError: if it is none of the key's kind.
  """
  kind = kind_of(base, key)
  word = text.strip().lower()
  if get(base, key) is None and word in _NOTHING:
    return None
  if kind is str:
    return text
  if kind is tuple:
    return _tuple(text)
  if kind is bool:
    if word in _WORDS:
      return _WORDS[word]
    wanted = "true or false"
  else:
    readers = {int: (int,), float: (float,), object: (int, float, str)}[kind]
    for read in readers:
      try:
        return read(text)
      except ValueError:
        pass
    wanted = "a whole number" if kind is int else "a number"
  raise UsageError(
      f"{key} is {shown(text)}; expected {wanted}; set it with --config.{key}="
  )


def _tuple(text: str) -> tuple:
  """A list: Python's, or words and numbers with commas between."""
  if len(text) <= _LONGEST_LITERAL:
    try:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        value = ast.literal_eval(text.strip() or "()")
      if isinstance(value, (tuple, list)):
        return tuple(value)
      return (value,)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
      pass
  return lists.split(text)
