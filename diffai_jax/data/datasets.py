"""The constants of each dataset: shapes, classes, means, the usual ε."""

import dataclasses

from diffai_jax.text.suggest import unknown_name


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The constants of a dataset of uint8 images.

  Attributes:
    image_shape: [H, W, C].
    num_classes: number of labels.
    mean, std: of each channel, for Normalize; pixels in [0, 1].
    epsilon: the radius it is usually certified at.
    crop_padding: training images are cropped at random after padding with
      this many zeros on each side, unless the config says otherwise.
    flip: whether training images are mirrored at random, likewise.
  """

  image_shape: tuple[int, int, int]
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]
  epsilon: float
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
}


def dataset(name: str) -> Dataset:
  """The constants of that dataset.

  Raises:
    UsageError: if the name is not in DATASETS.
  """
  if not isinstance(name, str) or name not in DATASETS:
    raise unknown_name("dataset", name, DATASETS)
  return DATASETS[name]
