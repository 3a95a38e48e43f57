"""Provably robust training of neural networks with hybrid zonotopes.

  import diffai_jax as dj
  run = dj.train(network, (images, labels), epsilon=0.1)

Importing loads nothing: each name is looked up when it is first used, so that
flags of XLA can still be set.
"""

import importlib

__version__ = "0.1.0"

# The front door: each name, and the room or folder that has it; after "=", the
# room or folder that it stands for.
_DOOR = {
    "Attack": "verification.attack_texts",
    "Bounds": "regions",
    "L2": "regions",
    "Linf": "regions",
    "attacks": "=attacks",
    "bounds": "verification.front_door",
    "certify": "verification.front_door",
    "from_jax": "graph",
    "from_onnx": "graph",
    "graph": "=graph",
    "largest_epsilon": "verification.front_door",
    "load": "app.run",
    "methods": "=verification.methods",
    "networks": "=networks",
    "nn": "=nn",
    "plot": "=app.plot",
    "train": "app.fit",
}


def __getattr__(name: str):
  if name not in _DOOR:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  place = _DOOR[name]
  room = importlib.import_module(f"{__name__}.{place.removeprefix('=')}")
  return room if place.startswith("=") else getattr(room, name)


def __dir__() -> list[str]:
  return sorted([*globals(), *_DOOR])
