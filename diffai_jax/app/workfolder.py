"""The work folder: which run it belongs to, and that nothing in it is lost."""

from collections.abc import Iterator
import contextlib
import json
import os

from diffai_jax import processes
from diffai_jax.app import config_dict, console
from diffai_jax.app.config import describe_differences, differences
from diffai_jax.storage import files, lock, store
from diffai_jax.storage.older_forms import renewed
from diffai_jax.training import checkpoints, metrics
from diffai_jax.types import UsageError

CONFIG_FILE = "config.json"
# The epochs of a run that was made longer: those that its schedules' clock, if
# it is stretched, was stretched to. Not a key of configs.
_FIRST_EPOCHS = "first_epochs"
# A digest of the examples that a run is trained on, where its dataset's name
# does not say which they are: files may change. Not a key of configs, either.
_DATA = "training_data"
# Keys that decide which network the weights are of.
_OF_THE_NETWORK = (
    "network", "batch_norm", "dataset", "data_range", "mean", "std"
)


@contextlib.contextmanager
def held(workdir: str) -> Iterator[None]:
  """Holds the folder, which is made if need be, against other processes.

  What killed processes left half-written at its top and among its checkpoints
  is removed when it is claimed. Of several processes of one run the first one
  holds it, for all; every one of them calls it.

  Raises:
    UsageError: if another process holds it, or it cannot be written.
  """
  holding = []

  def hold() -> None:
    try:
      store.make_folders(workdir)
      holding.append(lock.acquire(workdir))
    except OSError as error:
      raise _cannot_write(workdir, error) from None

  processes.by_first(hold)
  try:
    yield
  finally:
    for held_lock in holding:
      lock.release(held_lock)


def _cannot_write(workdir: str, error: OSError) -> UsageError:
  return UsageError(
      f"cannot write to --workdir {workdir} ({files.reason(error)}); choose"
      f" another folder"
  )


def read_config(workdir: str) -> dict | None:
  """The config that a work folder belongs to, or None if it has none.

  Where its file is gone, or damaged, the copy in the newest checkpoint is
  taken, with a warning.

  Raises:
    UsageError: if the file cannot be read, and there is no checkpoint.
  """
  record = _read_record(workdir)
  return record and {
      k: v for k, v in record.items() if k not in (_FIRST_EPOCHS, _DATA)
  }


def _read_record(workdir: str) -> dict | None:
  """What config.json holds: the config, and of a longer run `first_epochs`."""
  path = os.path.join(workdir, CONFIG_FILE)
  stored = checkpoints.stored_config(workdir)
  stored = stored and renewed(stored)
  try:
    found = files.read_json(path, "choose another --workdir")
    found = found and renewed(found)
  except UsageError as error:
    if stored is None:
      raise
    found, trouble = stored, str(error).partition(";")[0]
  else:
    if stored is None:
      return found
    trouble = f"{path} is gone"
    if found is not None:
      # The checkpoint's copy has a digest. It may be of a shorter run.
      changed = _changed(stored, found)
      if first_epochs(stored) != first_epochs(found):
        changed.append("epochs")
      if not changed:
        return found
      told = describe_differences(changed, stored, found)
      trouble = f"{path} is not the run's: it differs in {told}"
  console.print_warning(f"{trouble}; the copy in the checkpoint is used")
  return stored


def _changed(old: dict, new: dict) -> list[str]:
  """The keys in which a run differs from what it may become.

  It may become longer, and then remembers how long it was first.
  """
  epochs = old.get("epochs"), new.get("epochs")
  numbers = all(isinstance(value, (int, float)) for value in epochs)
  longer = numbers and epochs[0] < epochs[1]
  return [
      name for name in differences(old, new)
      if name != _FIRST_EPOCHS and not (longer and name == "epochs")
  ]


def claim(
    workdir: str, config: config_dict.ConfigDict, data: str | None = None
) -> dict:
  """Makes the folder this config's, or checks that it is already.

  A run may be made longer by raising `epochs`. What killed processes left
  half-written is removed. The folder is `held`.

  Args:
    workdir: the folder.
    config: a checked one.
    data: a digest of the training data, where the config does not tell them.

  Returns:
    The config that the folder has now, as JSON, under "first_epochs" those that
    a longer run began with, and under "training_data" the digest.

  Raises:
    UsageError: if it is another run's, or cannot be written. Nothing in it
      is changed then.
  """
  new = json.loads(config.to_json())
  old = _read_record(workdir)
  if old is None:
    _require_no_run(workdir)
    new[_DATA] = data
  else:
    new[_DATA] = data or old.get(_DATA)
    changed = _changed({_DATA: data} | old, new)
    if new["checkpoint"] is None:  # The first length alone is kept.
      new["checkpoint"] = old.get("checkpoint")
    elif new["checkpoint"] != old.get("checkpoint"):
      changed.append("checkpoint")
    if changed:
      longer = "; epochs can only be raised" if "epochs" in changed else ""
      raise UsageError(
          f"{workdir} belongs to another run: it differs in"
          f" {describe_differences(changed, old, new)}{longer}; choose another"
          f" --workdir, or give the same values again"
      )
    if _FIRST_EPOCHS in old or old["epochs"] < new["epochs"]:
      new[_FIRST_EPOCHS] = old.get(_FIRST_EPOCHS, old["epochs"])
  if new[_DATA] is None:
    del new[_DATA]
  try:
    store.make_folders(workdir)
    files.remove_unfinished(workdir)
    files.remove_unfinished(os.path.join(workdir, checkpoints.FOLDER))
    files.write_json(os.path.join(workdir, CONFIG_FILE), new)
  except OSError as error:
    raise _cannot_write(workdir, error) from None
  return new


def _require_no_run(workdir: str) -> None:
  """Raises UsageError if a folder without a config has a run's files."""
  for name in (checkpoints.FOLDER, metrics.FILE):
    path = os.path.join(workdir, name)
    empty = store.is_folder(path) and not store.names_in(path)
    if store.exists(path) and not empty:
      raise UsageError(
          f"{workdir} has {name} of a run, but no {CONFIG_FILE} that says of"
          f" which; choose another --workdir, or put that file back"
      )


def first_epochs(record: dict) -> float | None:
  """The epochs that the schedules' clock of a claimed run was stretched to."""
  return record.get(_FIRST_EPOCHS, record.get("epochs"))


def require_same_network(
    workdir: str, config: config_dict.ConfigDict
) -> dict:
  """Checks that a folder's checkpoint is of this config's network.

  Returns:
    The config that it was trained with.

  Raises:
    UsageError: if the folder has no run, or one of another network or dataset.
  """
  old = read_config(workdir)
  if old is None:
    raise UsageError(
        f"{workdir} has no trained network (no {CONFIG_FILE}); train one with"
        f" --mode=train first"
    )
  new = json.loads(config.to_json())
  changed = [
      name
      for name in differences(old, new)
      if name in _OF_THE_NETWORK
  ]
  if changed:
    raise UsageError(
        f"{workdir} has another network: it differs in"
        f" {describe_differences(changed, old, new)}; give its own --config"
    )
  return old
