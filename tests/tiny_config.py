"""The config of a run that takes little, for tests that start processes.

They know the network by the config's file alone. Its data are digits in a file
of NumPy's, as importing scikit-learn takes longer than training.
"""

import pathlib

import numpy as np

from diffai_jax.data import load

_TEXT = """
import functools

from diffai_jax.app import report
from diffai_jax.app.config import base_config
from diffai_jax.networks import NETWORKS, ffnn

# Drawing takes longer than training.
report._image = lambda figure, description: f"<p>{{description}}</p>"

def get_config():
  NETWORKS["Tiny"] = functools.partial(ffnn, hidden=(9,))
  config = base_config("digits")
  config.dataset, config.mean, config.std = {data!r}, (0.3,), (0.4,)
  config.network, config.goal = "Tiny", "Point"
  config.epochs, config.batch_size = 1.0, 220
  config.xla_flags = False
  config.certify.methods = ("Box",)
  config.certify.examples = 12
  config.certify.skip_decided = False
  config.certify.attack.steps = 2
  return config
"""


def save_digits(folder: pathlib.Path) -> str:
  """Writes scikit-learn's digits into the folder; returns the data's name."""
  parts = [load("digits", split) for split in ("train", "test")]
  images, labels = (
      np.concatenate(arrays) for arrays in zip(*(
          (part.images, part.labels) for part in parts
      ))
  )
  np.savez(folder / "digits.npz", images=images, labels=labels)
  return f"npz:{folder / 'digits.npz'}"


def write(folder: pathlib.Path) -> pathlib.Path:
  """Writes the config's file and its data into the folder."""
  path = folder / "small.py"
  path.write_text(_TEXT.format(data=save_digits(folder)))
  return path
