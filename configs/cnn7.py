r"""CNN7 with batch normalisation, the network of the current literature.

  python -m diffai_jax.main --config=configs/cnn7.py:cifar10,8/255 \
      --workdir=runs/cnn7 --config.data_dir=FOLDER

Made for one GPU; not run at full length here. With these settings, interval
bounds and both regularisers, Shi et al. 2021 ("Fast certified robust training
with short warmup", Table 2) report 0.489 standard and 0.350 verified on
CIFAR-10 at 8/255. The paper has no such network.
"""

from diffai_jax.app.config import base_config


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = base_config(variant, "cifar10", flags=flags)
  config.network = "CNN7"
  config.goal = "Sub(Smooth(0, 1, 80, 1), Box)"
  config.epochs = 160.0
  config.schedule_epochs = 160.0
  config.batch_size = 128
  config.optimizer.learning_rate = 5e-4
  config.optimizer.milestones = (120, 140)
  config.optimizer.decay = 0.2
  config.optimizer.clip_norm = 10.0
  # Both act while ε grows.
  config.regularizers.tightness = "Until(80, 0.5, 0)"
  config.regularizers.relu_balance = "Until(80, 0.5, 0)"
  return config
