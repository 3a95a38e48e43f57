"""Checkpoints of a run: which there are, which is used, which are kept."""

from collections.abc import Callable, Sequence
import dataclasses
import os

import jax
import numpy as np

from diffai_jax import processes
from diffai_jax.storage import files, store
from diffai_jax.training import snapshot
from diffai_jax.training.state import TrainState
from diffai_jax.types import UsageError

FOLDER = "checkpoints"


class CannotSave(Exception):
  """A checkpoint could not be written; the message is the reason, one line."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """What `restore` found.

  Attributes:
    state: as it was saved, on the devices of the state that was like it.
    path: the checkpoint's folder.
    config: of the run that it belongs to.
    skipped: newer checkpoints that cannot be used, and why: (path, reason).
  """

  state: TrainState
  path: str
  config: dict
  skipped: tuple[tuple[str, str], ...]

  @property
  def warning(self) -> str | None:
    """What to tell about those that were skipped, in one line."""
    if not self.skipped:
      return None
    told = "; ".join(f"{path} ({cause})" for path, cause in self.skipped[:2])
    return f"unusable checkpoint: {told}; {self.path} is used instead"


def restore(
    paths: Sequence[str], like: TrainState, weights_only: bool = False
) -> Restored | None:
  """The first checkpoint that is whole, or None if there are no paths.

  Args:
    paths: folders of checkpoints, the one to be preferred first.
    like: a state of the same structure and shapes.
    weights_only: whether the optimiser's state stays that of `like`.

  Raises:
    UsageError: if none is whole, or one is of another network or optimiser.
  """
  skipped = []
  for path in paths:
    try:
      manifest = snapshot.read_manifest(path)
      _require_same_arrays(path, manifest["arrays"], like, weights_only)
      arrays = snapshot.read_arrays(path, manifest)
    except snapshot.SnapshotError as error:
      skipped.append((path, str(error)))
      continue
    if weights_only:
      arrays = _weights(arrays)
    state = _replaced(like, arrays)
    return Restored(state, path, manifest["config"], tuple(skipped))
  if not skipped:
    return None
  told = "; ".join(f"{path} ({cause})" for path, cause in skipped[:2])
  raise UsageError(
      f"no checkpoint can be used: {told}; give the path of a copy with"
      f" --config.checkpoint, or train anew in another --workdir"
  )


def restore_for_all(
    paths: Callable[[], Sequence[str]],
    like: TrainState,
    weights_only: bool = False,
) -> Restored | None:
  """As `restore`, in all processes; the first one alone reads.

  The others need not see the folders. Every process calls it.

  Args:
    paths: called by process 0, gives what `restore` takes.
    like, weights_only: as `restore` takes them.

  Raises:
    UsageError: in all processes, if `paths` or `restore` raises it.
  """
  if processes.count() == 1:
    return restore(paths(), like, weights_only)
  own = []

  def find() -> dict | None:
    own.append(restore(paths(), like, weights_only))
    return own[0] and {
        "path": own[0].path, "config": own[0].config,
        "skipped": own[0].skipped,
    }

  told = processes.by_first(find)
  if told is None:
    return None
  arrays = processes.from_first(own[0].state if own else like)
  if own:
    return own[0]
  skipped = tuple((path, cause) for path, cause in told["skipped"])
  return Restored(_placed(like, arrays), told["path"], told["config"], skipped)


def stored_config(workdir: str) -> dict | None:
  """The config that the newest readable checkpoint of a run holds, or None."""
  for path in steps_of(os.path.join(workdir, FOLDER)):
    try:
      return snapshot.read_manifest(path)["config"]
    except snapshot.SnapshotError:
      continue
  return None


def steps_of(folder: str) -> list[str]:
  """The paths of all checkpoints in a folder, whole or not, newest first."""
  try:
    names = store.names_in(folder) if store.exists(folder) else []
  except (FileNotFoundError, NotADirectoryError):
    return []
  except OSError as error:
    raise UsageError(
        f"{folder} cannot be read ({files.reason(error)})"
    ) from None
  names = [n for n in names if n.isascii() and n.isdigit()]
  paths = [os.path.join(folder, n) for n in sorted(names, key=int, reverse=True)]
  if store.is_remote(folder):
    return [path for path in paths if snapshot.is_confirmed(path)]
  return paths


def resolve(path: str) -> list[str]:
  """The checkpoints that a path names, the one to be preferred first.

  Args:
    path: a run's folder, its `checkpoints`, or one of the folders in that; ~
      is the user's own folder.

  Raises:
    UsageError: if it is nothing of that.
  """
  full = store.absolute(path)
  inside = os.path.basename(os.path.dirname(full)) == FOLDER
  step = inside and os.path.basename(full).isdigit() and store.is_folder(full)
  if step or store.is_file(os.path.join(full, snapshot.MANIFEST)):
    return [full]
  found = steps_of(os.path.join(full, FOLDER)) or steps_of(full)
  if not found:
    what = "has no checkpoint" if store.is_folder(full) else "is no folder"
    raise UsageError(
        f"{path} {what}; expected a run's folder, its {FOLDER} folder, or one"
        f" of the folders in that"
    )
  return found


def run_of(path: str) -> str:
  """The run's folder that a path as `resolve` takes it lies in, or is."""
  full = store.absolute(path)
  parent = os.path.dirname(full)
  if os.path.basename(full) == FOLDER:
    return parent
  if os.path.basename(parent) == FOLDER:
    return os.path.dirname(parent)
  return full


class Keeper:
  """Saves the checkpoints of one run, and keeps the newest good ones.

  A state is written, and becomes a checkpoint when it is known that training
  can go on from it: until then its folder ends in .tmp, or in an object store has
  no checkpoint.json. Usable as a context manager, which removes what is
  unconfirmed.

  Args:
    workdir: the run's folder.
    config: the run's config, kept with each checkpoint.
    good: a checkpoint that is known to be whole, if there is one.
    kept: how many are kept, at least one.

  Attributes:
    folder: where they are.
  """

  def __init__(
      self, workdir: str, config: dict, good: str | None = None, kept: int = 2
  ):
    self.folder = os.path.join(store.absolute(workdir), FOLDER)
    self._remote = store.is_remote(self.folder)
    self._config = config
    self._good = [good] if good else []
    self._written = {}  # Folders that wait for confirmation, by their step.
    self._tried = False
    self._kept = kept

  @property
  def latest(self) -> str | None:
    """The newest checkpoint that is known to be whole."""
    return self._good[-1] if self._good else None

  def write(self, state: TrainState) -> None:
    """Writes a state, to be confirmed; the first one is read back.

    Args:
      state: its arrays may be NumPy's.

    Raises:
      CannotSave: if it cannot be written, or does not come back.
    """
    step = int(state.step)
    path = os.path.join(self.folder, str(step))
    if not self._remote:
      path += files.UNFINISHED
    try:
      store.make_folders(self.folder)
      store.remove(path)
      store.make_folders(path, exist_ok=False)
      self._written[step] = path
      snapshot.write(path, state, self._config)
      if not self._tried:
        manifest = snapshot.read_manifest(path, waiting=self._remote)
        snapshot.read_arrays(path, manifest)
        self._tried = True
    except OSError as error:
      self._discard(step)
      raise CannotSave(files.reason(error)) from None
    except snapshot.SnapshotError as error:
      self._discard(step)
      raise CannotSave(str(error)) from None

  def confirm(self, step: int) -> None:
    """Makes checkpoints of what was written up to a step; older ones go.

    Raises:
      CannotSave: if the folder cannot be changed.
    """
    for number in sorted(n for n in self._written if n <= step):
      path = self._written[number]
      final = path.removesuffix(files.UNFINISHED)
      try:
        if self._remote:
          snapshot.confirm(path)
        elif store.exists(final):  # Damaged: it would not be made again.
          store.rename(final, final + ".old" + files.UNFINISHED)
        if not self._remote:
          store.rename(path, final)
        files.sync_folder(self.folder)
      except OSError as error:
        self._discard(number)
        raise CannotSave(files.reason(error)) from None
      del self._written[number]
      self._good = [good for good in self._good if good != final] + [final]
    self._prune()

  def _prune(self) -> None:
    """Removes all but the newest, once there are enough that are whole."""
    files.remove_unfinished(self.folder, but=self._written.values())
    if self._remote:
      self._remove_unconfirmed()
    if len(self._good) < self._kept:
      return
    self._good = self._good[-self._kept :]
    for path in steps_of(self.folder):
      if path not in self._good:
        # What is removed by half is no checkpoint.
        if self._remote:
          store.remove(os.path.join(path, snapshot.MANIFEST))
          store.remove(path)
          continue
        gone = path + ".old" + files.UNFINISHED
        try:
          store.rename(path, gone)
        except OSError:
          continue
        store.remove(gone)

  def _remove_unconfirmed(self) -> None:
    """Removes what killed processes left in an object store."""
    for name in store.names_in(self.folder):
      path = os.path.join(self.folder, name)
      waits = path in self._written.values()
      if not waits and not snapshot.is_confirmed(path):
        store.remove(path)

  def _discard(self, step: int) -> None:
    path = self._written.pop(step, None)
    if path:
      store.remove(path)

  def __enter__(self) -> "Keeper":
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def close(self) -> None:
    """Removes what is unconfirmed."""
    for step in list(self._written):
      self._discard(step)


def _require_same_arrays(
    path: str, saved: list, like: TrainState, weights_only: bool
) -> None:
  """Raises UsageError unless the paths, types and shapes are the same."""
  found = {name: (kind, tuple(shape)) for name, kind, shape in saved}
  wanted = {
      name: (leaf.dtype.name, tuple(leaf.shape))
      for name, leaf in snapshot.named_leaves(like)
  }
  if weights_only:
    found, wanted = _weights(found), _weights(wanted)
  differing = [
      name for name in [*wanted, *found] if found.get(name) != wanted.get(name)
  ]
  if not differing:
    return
  # The network's own arrays tell more than the optimiser's copies of them.
  name = min(differing, key=_is_optimizers)
  owner = "optimizer" if _is_optimizers(name) else "network"

  def told(arrays: dict) -> str:
    if name not in arrays:
      return "missing"
    kind, shape = arrays[name]
    return f"{kind}{list(shape)}"

  raise UsageError(
      f"checkpoint {path} is of another {owner}: {name} is {told(found)},"
      f" expected {told(wanted)}; give the --config that it was trained with"
  )


def _is_optimizers(name: str) -> bool:
  return name.startswith("optimizer")


def _weights(arrays: dict) -> dict:
  """Those that are not the optimiser's."""
  return {n: x for n, x in arrays.items() if not _is_optimizers(n)}


def _replaced(like: TrainState, arrays: dict[str, np.ndarray]) -> TrainState:
  """The state `like` with those arrays, where it has its own."""
  leaves = [arrays.get(name, leaf) for name, leaf in snapshot.named_leaves(like)]
  return _placed(like, jax.tree.unflatten(jax.tree.structure(like), leaves))


def _placed(like: TrainState, state: TrainState) -> TrainState:
  """The state on the devices of the state `like`."""
  return jax.tree.map(
      lambda x, place: jax.device_put(x, getattr(place, "sharding", None)),
      state, like,
  )
