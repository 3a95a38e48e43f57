"""What the settings of several networks have in common.

Each function makes the config of a network: its defaults, the dataset and ε of
the variant or of flags, and a recipe of training. Network files import this one
and say what is their own.
"""

from collections.abc import Mapping

from diffai_jax.app import config_dict
from diffai_jax.app.config import base_config


def _clock(config: config_dict.ConfigDict, epochs: float) -> None:
  """A run of so many epochs, which are those of the schedules too."""
  config.epochs = epochs
  config.schedule_epochs = epochs


def short(
    network: str, variant: str, flags: Mapping, dataset: str = "mnist"
) -> config_dict.ConfigDict:
  """The smaller networks: 40 epochs, in which the schedules have their 200."""
  config = base_config(variant, dataset, flags=flags)
  config.network = network
  config.epochs = 40.0
  config.schedule_epochs = 200.0
  config.optimizer.milestones = (140, 180)
  config.optimizer.decay = 0.2
  return config


def short_convolutional(
    network: str, variant: str, flags: Mapping
) -> config_dict.ConfigDict:
  """ConvSmall and ConvMed, with settings that were chosen on MNIST at 0.1."""
  config = short(network, variant, flags)
  config.goal = "Mix(Point, Sub(Lin(0, 1.3, 60), Box), Lin(0, 0.8, 60))"
  if config.dataset == "mnist":  # Shifts by a pixel: less overfitting.
    config.augment.crop_padding = 1
  config.optimizer.learning_rate = 2e-3
  return config


def large_convolutional(
    network: str, variant: str, flags: Mapping
) -> config_dict.ConfigDict:
  """The larger networks without skip connections, on CIFAR-10."""
  config = base_config(variant, "cifar10", flags=flags)
  config.network = network
  config.goal = "Mix(Point, Sub(Lin(0, 1.1, 80), Box), Lin(0, 0.5, 80))"
  _clock(config, 200.0)
  config.batch_size = 128
  config.optimizer.milestones = (120, 160)
  config.optimizer.decay = 0.2
  return config


def wide_residual(
    network: str, variant: str, flags: Mapping, epochs: float
) -> config_dict.ConfigDict:
  """ResNet-Tiny and ResNet-Large: Adam, on CIFAR-10."""
  config = base_config(variant, "cifar10", flags=flags)
  config.network = network
  config.initializer = "dirac"
  _clock(config, epochs)
  config.batch_size = 50
  config.optimizer.learning_rate = 1e-3
  config.optimizer.l2 = 0.01
  return config


def deep(network: str, variant: str, flags: Mapping) -> config_dict.ConfigDict:
  """The deepest networks: 400 epochs of SGD, on CIFAR-10 (section 5.1)."""
  config = base_config(variant, "cifar10", flags=flags)
  config.network = network
  config.initializer = "dirac"
  _clock(config, 400.0)
  config.batch_size = 200
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  return config
