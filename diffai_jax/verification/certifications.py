"""The certifications of a work folder: each has a place of its own.

The one with the run's own settings is at the top, every other in a folder of
`certifications/` that is named after what differs. None is written over another.
"""

from collections.abc import Iterator, Mapping
import hashlib
import os
import re

from diffai_jax.attacks import MIFGSM
from diffai_jax.storage import files, store
from diffai_jax.storage.sealed import DamagedError
from diffai_jax.types import UsageError
from diffai_jax.verification import certification

FOLDER = "certifications"
JOURNAL_FILE = "certification.blocks"
_LONGEST_NAME = 100
_FILES = (
    certification.JSON_FILE, certification.NPZ_FILE, certification.NETWORK_FILE
)


def settings(config: Mapping) -> dict:
  """What a config says about certification, flat; None where it says nothing.

  Args:
    config: as JSON holds it.
  """
  certify = config.get("certify")
  certify = certify if isinstance(certify, Mapping) else {}
  attack = certify.get("attack")
  attack = attack if isinstance(attack, Mapping) else {}
  attacks = certify.get("attacks")
  return {
      "epsilon": config.get("epsilon"),
      "split": certify.get("split"),
      "examples": certify.get("examples"),
      "methods": certify.get("methods"),
      "skip_decided": certify.get("skip_decided"),
      # The only one there was, once, and then no key.
      "attacks": None if attacks == [str(MIFGSM())] else attacks,
      "proofs": certify.get("proofs") or None,
      "attack_steps": attack.get("steps"),
      "attack_momentum": attack.get("momentum"),
      "attack_radius": attack.get("radius"),
      "abstract_layers": config.get("abstract_layers"),
  }


def name_of(given: Mapping, own: Mapping) -> str:
  """What differs, as the name of a folder; "" if nothing does.

  Such as "epsilon_0.03_split_train". Where a value has other characters than a
  name may, or the name would be too long, digits tell it from others alike.

  Args:
    given, own: values by name; those of both are compared.
  """
  texts = [
      f"{key}_{_text(value)}"
      for key, value in given.items()
      if value != own.get(key)
  ]
  exact = "_".join(texts)
  name = re.sub(r"[^A-Za-z0-9._-]+", "-", exact)
  if name == exact and len(name) <= _LONGEST_NAME:
    return name
  digest = hashlib.sha256(exact.encode("utf-8")).hexdigest()
  return f"{name[:_LONGEST_NAME - 9]}_{digest[:8]}"


def _text(value) -> str:
  if value is None:
    return "all"
  if isinstance(value, (list, tuple)):
    return "-".join(map(str, value))
  return str(value)


def place(workdir: str, name: str, identity: str) -> str:
  """The folder of a certification, made if it does not exist.

  Another one that is at the top is copied to a folder of its own first; one
  that has the name already makes the new one's longer.

  Args:
    workdir: the work folder.
    name: of `name_of`; "" is the top.
    identity: as the JSON has it.

  Raises:
    OSError: if it cannot be written.
  """
  if not name:
    there = _summary(workdir)
    if there is not None and there.get("identity") != identity:
      _set_aside(workdir, there)
    return workdir
  folder = os.path.join(workdir, FOLDER, name)
  there = _summary(folder)
  if there is not None and there.get("identity") != identity:
    folder = f"{folder}_{identity[:8]}"
  store.make_folders(folder)
  return folder


def check_place(folder: str) -> None:
  """Checks that results can be written to a folder, before there are any.

  Raises:
    UsageError: if a folder has the name of a file.
  """
  if store.is_remote(folder):
    return  # There are none: a name ends with a slash or does not.
  for name in (*_FILES, JOURNAL_FILE):
    path = os.path.join(folder, name)
    if store.is_folder(path):
      raise UsageError(
          f"{path} is a folder, where a file of results belongs; remove it"
      )


def whole(folder: str, identity: str) -> dict | None:
  """The summary in a folder, if it is of that certification and complete."""
  there = _summary(folder)
  if there is None or there.get("identity") != identity or there["failed"]:
    return None
  return there


def found(workdir: str) -> Iterator[tuple[str, dict | DamagedError]]:
  """Each certification of a work folder: its folder, and what is in it.

  Yields:
    (folder, the JSON's content or why it cannot be used); the top first.
  """
  parent = os.path.join(workdir, FOLDER)
  names = store.names_in(parent) if store.is_folder(parent) else []
  for folder in [workdir, *(os.path.join(parent, name) for name in names)]:
    try:
      summary = certification.load_summary(folder)
    except DamagedError as error:
      yield folder, error
    else:
      if summary is not None:
        yield folder, summary


def _summary(folder: str) -> dict | None:
  """What is in a folder; None also if it is damaged."""
  try:
    return certification.load_summary(folder)
  except DamagedError:
    return None


def _set_aside(workdir: str, there: dict) -> None:
  """Copies the top's certification to a folder, whole or not at all."""
  name = f"step_{there['step']}_epsilon_{there['epsilon']}"
  name = f"{name}_{there['identity'][:8]}"
  folder = os.path.join(workdir, FOLDER, name)
  if store.is_remote(workdir):
    for file in reversed(_FILES):  # The JSON last: without it there is none.
      store.copy(os.path.join(workdir, file), os.path.join(folder, file))
    return
  if store.exists(folder):  # Of an earlier time: the same certification.
    return
  temporary = folder + files.UNFINISHED
  store.remove(temporary)
  store.make_folders(temporary)
  for name in _FILES:
    store.copy(
        os.path.join(workdir, name), os.path.join(temporary, name)
    )
  store.rename(temporary, folder)
