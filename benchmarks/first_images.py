"""The images that trained networks are measured on."""

import numpy as np

from diffai_jax.data import load


def first_of_test(
    dataset: str, count: int, data_dir: str | None
) -> tuple[np.ndarray, np.ndarray]:
  """The first test images in [0, 1], float32 [N, H, W, C], and labels, [N]."""
  data = load(dataset, "test", data_dir)
  images = np.asarray(data.images[:count], np.float32) / 255
  return images, np.asarray(data.labels[:count])
