"""ConvMed on scikit-learn's 8×8 digits: the whole way in about a minute.

  python -m diffai_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Needs no download. `launch/quickstart.sh` installs everything and runs it.
"""

from diffai_jax.app.config import base_config


def get_config(variant: str = ""):
  """The config; `variant` is "dataset,epsilon", such as "digits,0.03"."""
  config = base_config(variant, "digits")
  config.network = "ConvMed"
  config.goal = "Mix(Point, Sub(Lin(0, 1.2, 60), Box), Lin(0, 0.7, 60))"
  config.epochs = 200.0
  config.schedule_epochs = 200.0
  config.batch_size = 64
  config.optimizer.learning_rate = 3e-3
  config.optimizer.milestones = (140, 180)
  config.optimizer.decay = 0.2
  return config
