r"""FFNN, five hidden layers of 100; not measured at full length here.

  python -m diffai_jax.main --config=configs/ffnn.py:mnist,0.1 \
      --workdir=runs/ffnn --config.data_dir=FOLDER

The paper: 0.933 standard, 0.908 attacked, 0.889 verified by HBox.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "mnist,0.1"."""
  config = common.short("FFNN", variant, flags)
  config.goal = "Mix(Point, Sub(Lin(0, 1.1, 60), Box), Lin(0, 0.8, 60))"
  return config
