"""Where TFDS keeps a prepared dataset: FOLDER/NAME[/CONFIG]/VERSION.

Of a folder that it cannot use TFDS raises long errors of several types, so the
folder is looked at first.
"""

import os
import re

from diffai_jax.data.places import entries
from diffai_jax.text.suggest import nearest
from diffai_jax.types import UsageError, shortened, shown

INFO = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def _versions(folder: str) -> list[str]:
  """The dataset's versions in this folder; [] if it is no dataset's own."""
  names = entries(folder)
  return [
      name for name in names if _VERSION.fullmatch(name)
  ] if isinstance(names, list) else []


def find(
    name: str, version: str | None, folder: str, config: str | None = None,
    asked: str | None = None,
) -> str:
  """The folder of a dataset's files.

  Args:
    name, version, config: TFDS's; None is the newest version there, and no
      config.
    folder: where datasets are.
    asked: the whole name that a user gave to TFDS, such as "a/b:1.0.0".

  Raises:
    UsageError: if they are not there; says what is.
  """
  whole = f"{name}/{config}" if config else name
  reader = "TFDS reads" if asked is None else "expected"
  asked = asked or whole
  found = entries(folder)
  if isinstance(found, str):
    raise _not_there(
        asked, folder, f"data_dir is {shown(folder)}, which {found}",
        found == "does not exist",
    )
  if name not in found:
    above, own = os.path.split(os.path.abspath(folder))
    if INFO in found:
      above, own = os.path.split(above)
    if own == name and (INFO in found or _versions(folder)):
      raise UsageError(
          f"data_dir is {shown(folder)}, the folder of {name} itself; give the"
          f" one that it is in: --config.data_dir={above}"
      )
    others = [e for e in found if _versions(os.path.join(folder, e))]
    held = f"it has {shown(others)}" if others else "it has no dataset"
    guess = nearest(name, others) if others else None
    held += f"; did you mean {guess}?" if guess else ""
    raise _not_there(
        asked, folder, f"{name} is not in data_dir={shown(folder)}: {held}"
    )
  inside = os.path.join(folder, *whole.split("/"))
  versions = entries(inside)
  if isinstance(versions, str):
    raise _not_there(asked, folder, f"{inside} {versions}", False)
  held = _versions(inside)
  if version is None:
    configs = [e for e in versions if _versions(os.path.join(inside, e))]
    if not held and configs:
      raise UsageError(
          f"{inside} holds the configs {shown(configs)} of {name}; expected one"
          f" of them, such as --config.dataset=tfds:{name}/{configs[0]}"
      )
    version = max(held, key=_numbers, default=None)
  if version not in versions:
    raise _not_there(
        asked, folder,
        f"{inside} holds {shortened(', '.join(held) or 'no version')}"
        + (f", but {reader} version {version}" if version else ""),
    )
  place = os.path.join(inside, version)
  files = entries(place)
  if isinstance(files, str):
    raise _not_there(asked, folder, f"{place} {files}", False)
  if not any(".array_record" in file for file in files):
    held = [kind for kind in ("tfrecord", "riegeli", "parquet")
            if any(f".{kind}" in file for file in files)]
    raise _not_there(
        asked, folder, f"{place} holds {held[0] if held else 'no data'} files;"
        f" expected array_record ones",
    )
  if INFO not in files:
    raise _not_there(
        asked, folder, f"{place} has no {INFO}: preparing it did not end"
    )
  return place


def _not_there(
    name: str, folder: str, what: str, may_prepare: bool = True
) -> UsageError:
  """The error, with the command that prepares the dataset where one can be."""
  advice = "give the folder that has it with --config.data_dir=FOLDER"
  if not may_prepare:
    return UsageError(f"{what}; {advice}")
  return UsageError(
      f"{what}; {advice}, or prepare it once with the command below",
      "pip install tensorflow && python -c \"import tensorflow_datasets as"
      f" tfds; tfds.builder('{name}', data_dir={folder!r},"
      " file_format='array_record').download_and_prepare()\"",
  )


def _numbers(version: str) -> list[int]:
  return [int(number) for number in version.split(".")]
