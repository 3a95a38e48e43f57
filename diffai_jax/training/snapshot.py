"""One checkpoint: a folder with a state, and digests of all that it holds.

It has `checkpoint.json` and `arrays/`, which is Orbax's. The JSON says the
step, the run's config, each array's path in the state, type and shape, and
SHA-256 of the arrays, of every file and of itself. What does not agree with it
is no checkpoint. In an object store, where no folder can be renamed, the JSON has
another name until the checkpoint is confirmed.
"""

import json
import os

import jax
import numpy as np

from diffai_jax.storage import files, sealed, store
from diffai_jax.training import array_store
from diffai_jax.training.state import TrainState

MANIFEST = "checkpoint.json"
_ARRAYS = "arrays"
_WAITING = "checkpoint.waiting.json"


class SnapshotError(Exception):
  """A folder is no complete checkpoint; the message is the reason, one line."""


def named_leaves(state: TrainState) -> list[tuple[str, jax.Array]]:
  """Every array of a state with its path, such as "params/layers_0/bias"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  return [
      (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
      for path, leaf in leaves
  ]


def write(path: str, state: TrainState, config: dict) -> None:
  """Writes a state into an empty folder, and waits until it is on the disk.

  In an object store it is no checkpoint before `confirm`.

  Raises:
    OSError, SnapshotError: if it cannot be written.
  """
  leaves = [(name, np.asarray(leaf)) for name, leaf in named_leaves(state)]
  arrays = [array for _, array in leaves]
  folder = os.path.join(path, _ARRAYS)
  try:
    array_store.write(folder, arrays)
  except array_store.StoreError as error:
    raise SnapshotError(str(error)) from None
  content = {
      "step": int(state.step),
      "arrays": [[n, x.dtype.name, list(x.shape)] for n, x in leaves],
      "digest": sealed.digest_of_arrays(arrays),
      "files": array_store.digests_of_files(folder),
      "config": config,
  }
  # Before `write_json`, which waits for itself.
  files.sync_tree(folder)
  name = _WAITING if store.is_remote(path) else MANIFEST
  files.write_json(
      os.path.join(path, name),
      {"sha256": sealed.digest_of(content), "content": content},
  )


def confirm(path: str) -> None:
  """Makes a checkpoint of what was written in an object store.

  Raises:
    OSError: if it cannot be.
  """
  store.copy(os.path.join(path, _WAITING), os.path.join(path, MANIFEST))
  store.remove(os.path.join(path, _WAITING))


def is_confirmed(path: str) -> bool:
  """Whether a folder of an object store is a checkpoint, damaged or not."""
  return store.exists(os.path.join(path, MANIFEST))


def read_manifest(path: str, waiting: bool = False) -> dict:
  """The content of a checkpoint's JSON, which is as it was written.

  Args:
    path: the checkpoint's folder.
    waiting: whether it waits in an object store to be confirmed.

  Raises:
    SnapshotError: if it is not.
  """
  try:
    name = _WAITING if waiting else MANIFEST
    with store.opened(os.path.join(path, name), "r") as file:
      manifest = json.load(file)
    content = manifest["content"]
    if manifest["sha256"] == sealed.digest_of(content):
      return content
  except OSError as error:
    raise SnapshotError(f"{MANIFEST}: {files.reason(error)}") from None
  except (ValueError, TypeError, KeyError, RecursionError):
    pass  # Neither JSON nor ours.
  raise SnapshotError(f"{MANIFEST} is damaged")


def read_arrays(path: str, manifest: dict) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint by their paths, the same to the bit.

  Raises:
    SnapshotError: if a file or the arrays' digest is another.
  """
  folder = os.path.join(path, _ARRAYS)
  try:
    found = array_store.digests_of_files(folder)
    for name, wanted in manifest["files"].items():
      if found.get(name) != wanted:
        damage = "is damaged" if name in found else "is missing"
        raise SnapshotError(f"{_ARRAYS}/{name} {damage}")
    names, types, shapes = zip(*manifest["arrays"])
    arrays = array_store.read(
        folder, [np.empty(s, jax.numpy.dtype(t)) for t, s in zip(types, shapes)]
    )
  except OSError as error:
    raise SnapshotError(f"{_ARRAYS}: {files.reason(error)}") from None
  except array_store.StoreError as error:
    raise SnapshotError(str(error)) from None
  if sealed.digest_of_arrays(arrays) != manifest["digest"]:
    raise SnapshotError("its arrays are not those that were saved")
  return dict(zip(names, arrays))
