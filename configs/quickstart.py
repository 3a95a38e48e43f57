"""ConvMed on scikit-learn's 8×8 digits: the whole way in about a minute.

  python -m diffai_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Needs no download. `launch/quickstart.sh` installs everything and runs it.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "digits,0.03"."""
  config = common.short("ConvMed", variant, flags, "digits")
  config.goal = "Mix(Point, Sub(Lin(0, 1.2, 60), Box), Lin(0, 0.7, 60))"
  config.epochs = 200.0
  config.batch_size = 64
  config.optimizer.learning_rate = 3e-3
  return config
