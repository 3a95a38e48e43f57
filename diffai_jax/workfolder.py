"""The work folder: whose it is, and that nothing in it gets lost."""

import json
import os

from ml_collections import config_dict

from diffai_jax import files
from diffai_jax.config import describe_differences, differences
from diffai_jax.types import UsageError

CONFIG_FILE = "config.json"


def read_config(workdir: str) -> dict | None:
  """The config that a work folder belongs to, or None if it has none.

  Raises:
    UsageError: if its file cannot be read.
  """
  return files.read_json(
      os.path.join(workdir, CONFIG_FILE), "choose another --workdir"
  )


def claim(workdir: str, config: config_dict.ConfigDict) -> None:
  """Makes the folder this config's, or checks that it is already.

  Raises:
    UsageError: if it is another config's, or cannot be written. Nothing in it
      is changed then.
  """
  new = json.loads(config.to_json())
  old = read_config(workdir)
  if old is not None:
    changed = differences(old, new)
    if changed:
      raise UsageError(
          f"{workdir} belongs to another run: it differs in"
          f" {describe_differences(changed, old, new)}; choose another"
          f" --workdir, or give the same values again"
      )
  try:
    os.makedirs(workdir, exist_ok=True)
    files.write_json(os.path.join(workdir, CONFIG_FILE), new)
  except OSError as error:
    raise UsageError(
        f"cannot write to --workdir {workdir}: {error.strerror}; choose"
        f" another folder"
    ) from None


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
      if name in ("network", "batch_norm", "dataset")
  ]
  if changed:
    raise UsageError(
        f"{workdir} has another network: it differs in"
        f" {describe_differences(changed, old, new)}; give its own --config"
    )
  return old
