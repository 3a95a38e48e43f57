"""Names of datasets, and what a name alone tells: shapes, means, the usual ε.

A name is a key of DATASETS, or says where a user's own data lie:

  folder:PATH   npz:FILE   tfds:NAME   tiny_imagenet:PATH
"""

import dataclasses
import os
import typing

from diffai_jax.text.suggest import nearest, unknown_name
from diffai_jax.types import UsageError, shown

# What may stand before a colon, and what after it.
KINDS = {
    "folder": "PATH", "npz": "FILE", "tfds": "NAME", "tiny_imagenet": "PATH",
}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The constants of a dataset.

  Attributes:
    image_shape: of one example: [H, W, C] of an image, [n] of a row of a table.
    num_classes: number of labels.
    mean, std: of each channel, for Normalize, in the units of the data as
      floats; None where nobody has said what they are.
    epsilon: the radius it is usually certified at; None where there is none.
    crop_padding: training images are cropped at random after padding with
      this many zeros on each side, unless the config says otherwise.
    flip: whether training images are mirrored at random, likewise.
  """

  image_shape: tuple[int, ...]
  num_classes: int
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  epsilon: float | None = None
  crop_padding: int = 0
  flip: bool = False


DATASETS: dict[str, Dataset] = {
    "digits": Dataset((8, 8, 1), 10, (0.3053,), (0.3760,), epsilon=0.05),
    "mnist": Dataset((28, 28, 1), 10, (0.1307,), (0.3081,), epsilon=0.1),
    "fashion_mnist": Dataset(
        (28, 28, 1), 10, (0.2860,), (0.3530,), epsilon=0.1
    ),
    "cifar10": Dataset(
        (32, 32, 3),
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
        epsilon=8 / 255,
        crop_padding=4,
        flip=True,
    ),
    "cifar100": Dataset(
        (32, 32, 3),
        100,
        (0.5071, 0.4866, 0.4409),
        (0.2673, 0.2564, 0.2762),
        epsilon=8 / 255,
        crop_padding=4,
        flip=True,
    ),
    # The radius of Wong et al. 2018 and Gowal et al. 2018.
    "svhn_cropped": Dataset(
        (32, 32, 3),
        10,
        (0.4377, 0.4438, 0.4728),
        (0.1980, 0.2010, 0.1970),
        epsilon=0.01,
    ),
    # The radius of Shi et al. 2021 and of most since.
    "tiny_imagenet": Dataset(
        (64, 64, 3),
        200,
        (0.4802, 0.4481, 0.3975),
        (0.2770, 0.2691, 0.2821),
        epsilon=1 / 255,
        crop_padding=4,
        flip=True,
    ),
}


class Source(typing.NamedTuple):
  """What a dataset's name says.

  Attributes:
    kind: a key of KINDS, or of DATASETS.
    place: what stands after the colon; "" where there is none.
  """

  kind: str
  place: str


def source_of(name: str) -> Source:
  """What a dataset's name says; nothing is looked for.

  Raises:
    UsageError: if it names none.
  """
  if isinstance(name, str):
    kind, colon, place = name.partition(":")
    if colon and kind in KINDS and place.strip():
      return Source(kind, place)
    if name in DATASETS:
      return Source(name, "")
  raise _unknown(name)


def known(name: str) -> Dataset | None:
  """The constants that a name alone tells, or None.

  Raises:
    UsageError: if it names no dataset.
  """
  source = source_of(name)
  if source.kind == "tfds" and source.place not in ("digits", "tiny_imagenet"):
    return DATASETS.get(source.place)  # tfds:mnist is MNIST as well.
  return DATASETS.get(source.kind)


def _unknown(name) -> UsageError:
  """The error, with the name that was probably meant."""
  forms = [f"{kind}:{rest}" for kind, rest in KINDS.items()]
  guess = None
  if isinstance(name, str):
    kind, colon, place = name.partition(":")
    if kind in KINDS:
      return UsageError(
          f"dataset is {shown(name)}, which does not say which one; expected"
          f" --config.dataset={kind}:{KINDS[kind]}"
      )
    if colon and (meant := nearest(kind, KINDS)):
      guess = f"{meant}:{place}"
    elif name.endswith(".npz"):
      guess = f"npz:{name}"
    elif os.sep in name:
      guess = f"folder:{name}"
  if guess:
    return UsageError(
        f"unknown dataset {shown(name)}; did you mean {shown(guess)}? known:"
        f" {', '.join([*DATASETS, *forms])}"
    )
  return unknown_name("dataset", name, [*DATASETS, *forms])
