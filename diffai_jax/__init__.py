"""Provably robust training of neural networks with hybrid zonotopes.

  import diffai_jax as dj
  run = dj.train(network, (images, labels), epsilon=0.1)

Importing loads nothing: each name is looked up when it is first used, so that
flags of XLA can still be set.
"""

import importlib

__version__ = "0.1.0"

# The front door: each name, and the room that it is in; None is that folder.
_DOOR = {
    "Attack": "verification.measures",
    "Linf": "regions",
    "bounds": "verification.front_door",
    "certify": "verification.front_door",
    "largest_epsilon": "verification.front_door",
    "methods": "verification",
    "networks": None,
    "nn": None,
}


def __getattr__(name: str):
  if name not in _DOOR:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  room = _DOOR[name]
  if room is None:
    return importlib.import_module(f"{__name__}.{name}")
  place = importlib.import_module(f"{__name__}.{room}")
  if not hasattr(place, name):  # A room of that folder.
    return importlib.import_module(f"{__name__}.{room}.{name}")
  return getattr(place, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_DOOR])
