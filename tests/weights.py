"""The layers of a network's parameters, in the order in which they run."""

import re

from flax import traverse_util


def layers(params: dict) -> list[dict]:
  """The dicts that hold a kernel, first layer first; changing one changes
  `params`."""
  found = {
      path[:-1]: None
      for path in traverse_util.flatten_dict(params)
      if path[-1] == "kernel"
  }
  return [_at(params, path) for path in sorted(found, key=_order)]


def _order(path) -> list:
  """layers_10 comes after layers_2."""
  return [
      [int(word) if word.isdigit() else word for word in re.split(r"_", name)]
      for name in path
  ]


def _at(params: dict, path) -> dict:
  for name in path:
    params = params[name]
  return params
