"""What lies in a folder, or in a few words why it cannot be looked into."""

import os

from diffai_jax.types import UsageError, shown


def entries(folder: str) -> list[str] | str:
  """What a folder holds, sorted, or why it cannot be looked into."""
  try:
    return sorted(os.listdir(folder))
  except FileNotFoundError:
    return "does not exist"
  except NotADirectoryError:
    return "is not a folder"
  except PermissionError:
    return "may not be read by you"
  except OSError as error:
    return f"cannot be read ({error.strerror})"


def listed(folder: str, advice: str) -> list[str]:
  """What a folder holds, sorted; hidden files are left out.

  Raises:
    UsageError: if it cannot be looked into; `advice` stands at its end.
  """
  found = entries(folder)
  if isinstance(found, str):
    raise UsageError(f"{shown(folder)} {found}; {advice}")
  return [name for name in found if not name.startswith(".")]
