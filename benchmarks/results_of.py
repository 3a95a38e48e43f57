"""What a work folder says, in a form that two of them can be compared by."""

import json
import os

import numpy as np

from diffai_jax.training import checkpoints, snapshot

# Differ from run to run.
_TIMES = ("seconds",)


def everything(workdir: str) -> dict:
  """The last checkpoint's digest, and all certifications."""
  paths = checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  found = certifications(workdir)
  for path in paths[:1]:
    manifest = snapshot.read_manifest(path)
    found["checkpoint"] = (manifest["step"], manifest["digest"])
  return found


def certifications(workdir: str) -> dict:
  """Each file of results by its path: numbers and arrays, without times."""
  found = {}
  for parent, _, names in os.walk(workdir):
    for name in names:
      path = os.path.join(parent, name)
      place = os.path.relpath(path, workdir)
      if name == "certification.json":
        with open(path, encoding="utf-8") as file:
          found[place] = _without_times(json.load(file))
      elif name == "certification.npz":
        with np.load(path) as arrays:
          found |= {
              f"{place}:{key}": (str(x.dtype), x.shape, x.tobytes())
              for key, x in arrays.items() if key not in _TIMES
          }
  return found


def _without_times(value):
  """A JSON value without what tells times, or digests of those."""
  if not isinstance(value, dict):
    return value
  return {
      key: _without_times(inner) for key, inner in value.items()
      if key not in _TIMES and "sha256" not in key and "digest" not in key
  }


def differences(wanted: dict, found: dict) -> list[str]:
  """The names under which two of them hold something else."""
  return sorted(
      name for name in wanted | found if wanted.get(name) != found.get(name)
  )
