"""Checkpoints of the training state: Orbax behind four functions."""

import os

import jax
import orbax.checkpoint as ocp

from diffai_jax.training.state import TrainState
from diffai_jax.types import UsageError

FOLDER = "checkpoints"
_KEPT = 2


def open_manager(workdir: str, read_only: bool = False) -> ocp.CheckpointManager:
  """The manager of `workdir`/checkpoints; the caller closes it.

  A checkpoint that was being written when the process died is not taken for
  one: Orbax renames it into place when it is whole.

  Args:
    workdir: a work folder.
    read_only: whether nothing may be written.
  """
  options = ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else _KEPT,
      enable_async_checkpointing=False,
      read_only=read_only,
  )
  folder = os.path.abspath(os.path.join(workdir, FOLDER))
  if not read_only:
    os.makedirs(folder, exist_ok=True)
  return ocp.CheckpointManager(
      folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
  )


def save(manager: ocp.CheckpointManager, state: TrainState) -> None:
  """Saves the state under its step, unless that step is saved already."""
  step = int(state.step)
  if step not in manager.all_steps():
    manager.save(step, args=ocp.args.StandardSave(state))


def restore(
    manager: ocp.CheckpointManager, like: TrainState, step: int | None = None
) -> TrainState | None:
  """The latest checkpoint, or None if there is none.

  Args:
    manager: as `open_manager` returns it.
    like: a state of the same structure and shapes.
    step: of the checkpoint, if it is not the latest.

  Raises:
    UsageError: if the checkpoint cannot be read, or is another network's.
  """
  step = manager.latest_step() if step is None else step
  if step is None or step not in manager.all_steps():
    return None
  path = os.path.join(manager.directory, str(step))
  # With shardings: another number of devices may have written it.
  shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      like,
  )
  try:
    if _shapes(manager.item_metadata(step)) == _shapes(like):
      return manager.restore(step, args=ocp.args.StandardRestore(shapes))
  except Exception as error:  # Orbax raises many kinds on broken files.
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise UsageError(
        f"checkpoint {path} cannot be read ({reason[:200]}); remove that"
        f" folder to go on from the one before it"
    ) from error
  raise UsageError(
      f"checkpoint {path} is of another network or optimizer; give the"
      f" --config that it was trained with"
  )


def _shapes(tree) -> list[tuple[int, ...]]:
  """Shapes of all arrays, whatever the containers are called."""
  return sorted(
      tuple(leaf.shape)
      for leaf in jax.tree.leaves(tree)
      if hasattr(leaf, "shape")
  )


def latest_path(manager: ocp.CheckpointManager) -> str | None:
  """Folder of the latest checkpoint, or None."""
  step = manager.latest_step()
  return None if step is None else os.path.join(manager.directory, str(step))
