"""Proofs as files, which `python -m diffai_jax.check` checks without JAX.

One .npz file for each image holds arrays and a JSON text: the network's calls, the box,
the spec's rows by group, and of each leaf its group, its path of decisions, its α
and β. No bound is in it: the checker computes them.
"""

import hashlib
import io
import json
import os

import numpy as np

from diffai_jax.branching.subdomains import Root, Subdomains
from diffai_jax.graph import Graph
from diffai_jax.kernels.geometry import pair
from diffai_jax.regions import L2
from diffai_jax.storage import files
from diffai_jax.types import UsageError

CHECKED = frozenset((
    "dense", "conv", "scale_shift", "reshape", "transpose", "add", "relu",
))
_VERSION = 1


class Proofs:
  """Collects the leaves of a search, and makes files of them.

  It is what `search` takes as `leaves`.
  """

  def __init__(self, graph: Graph, region):
    """
    Raises:
      UsageError: if the checker knows no proof of such a network or region.
    """
    others = sorted({c.transformer for c in graph.calls} - CHECKED)
    options = [dict(c.options) for c in graph.calls if c.transformer == "conv"]
    if any(
        o.get("groups", 1) != 1 or pair(o.get("dilation", 1)) != (1, 1)
        for o in options
    ):
      others.append("conv with groups or dilation")
    if others or isinstance(region, L2):
      raise UsageError(
          f"proofs are of chains and sums of affine maps and ReLUs over boxes; this"
          f" one has {', '.join(others) or 'an L2 ball'}: leave proofs out"
          f" (certify.proofs=false)"
      )
    self._graph = graph
    self._root: Root | None = None
    self._leaves: dict[int, list] = {}

  def __call__(
      self, root: Root, some: Subdomains, bounds: np.ndarray
  ) -> None:
    """Keeps subdomains that are proved."""
    del bounds
    self._root = root
    for number in np.unique(some.image):
      own = some.image == number
      self._leaves.setdefault(int(number), []).append((
          some.group[own].copy(), some.decisions[own].copy(),
          some.alpha[own].copy(), some.beta[own].copy(),
      ))

  def forget(self, image: int) -> None:
    """Drops the leaves of an image."""
    self._leaves.pop(image, None)

  def arrays(self, image: int) -> dict[str, np.ndarray]:
    """The proof of an image whose leaves are all here, by name."""
    root = self._root
    low, high = (np.asarray(b)[image] for b in root.bounds[0])
    leaves = self._leaves[image]
    depth = max(decisions.shape[1] for _, decisions, _, _ in leaves)
    wide = lambda a: np.pad(
        a, [(0, 0)] * (a.ndim - 1) + [(0, depth - a.shape[-1])]
    )
    decisions = np.concatenate([wide(d) for _, d, _, _ in leaves])
    beta = np.concatenate([b for _, _, _, b in leaves])
    # Of the decisions' own places.
    at = root.places[image][None, None] == abs(decisions)[..., None] - 1
    beta = np.where(
        decisions[:, None] != 0,
        np.take_along_axis(beta, at.argmax(axis=2)[:, None], 2), 0,
    )
    used = max(1, int((decisions != 0).any(axis=0).sum()))
    rows = root.rows[image]
    calls, arrays = _network(self._graph)
    header = {
        "version": _VERSION, "calls": calls, "output": self._graph.outputs[0],
        "input_shape": self._graph.input_shape, "digest": digest(arrays),
    }
    return arrays | {
        "proof": np.asarray(json.dumps(header)),
        "lower": low, "upper": high,
        "rows": rows.reshape(rows.shape[:2] + (-1,)),
        "offsets": root.offsets[image], "places": root.places[image],
        "group": np.concatenate([g for g, _, _, _ in leaves]),
        "decisions": decisions[:, :used],
        "alpha": np.concatenate([a for _, _, a, _ in leaves]),
        "beta": beta[..., :used],
    }

  def write(self, image: int, path: str) -> None:
    """Writes the proof of an image, all or nothing.

    Raises:
      OSError: if it cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **self.arrays(image))
    with files.replacing(os.fspath(path), binary=True) as file:
      file.write(buffer.getvalue())


def _network(graph: Graph) -> tuple[list[dict], dict[str, np.ndarray]]:
  calls, arrays = [], {}
  for number, call in enumerate(graph.calls, start=1):
    for name, array in call.arrays.items():
      arrays[f"{number}/{name}"] = np.asarray(array)
    left = {"groups", "dilation"}  # Which are 1.
    calls.append({
        "op": call.transformer, "inputs": call.inputs,
        "arrays": list(call.arrays),
        "options": {k: v for k, v in call.options if k not in left},
    })
  return calls, arrays


def digest(arrays: dict[str, np.ndarray]) -> str:
  """The SHA-256 of a network's arrays, in the order of their names."""
  made = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    made.update(f"{name} {array.dtype.str} {array.shape}".encode())
    made.update(array.tobytes())
  return made.hexdigest()
