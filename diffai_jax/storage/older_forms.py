"""What is read of files that an earlier version wrote, in today's words."""

# Keys of configs, in their group `certify`, and of certifications.
_KEYS = {"domains": "methods"}


def renewed(value: dict) -> dict:
  """A config, or what a certification says, with the keys that there are now.

  Args:
    value: as JSON holds it; it stays as it is.
  """
  group = value.get("certify")
  if isinstance(group, dict):
    value = value | {"certify": _renamed(group)}
  return _renamed(value)


def _renamed(value: dict) -> dict:
  """With today's keys in their places; of two that mean one, today's counts."""
  return {
      _KEYS.get(key, key): value.get(_KEYS.get(key, key), entry)
      for key, entry in value.items()
  }
