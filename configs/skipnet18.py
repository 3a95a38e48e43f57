r"""SkipNet-18 (paper, section 5.1 and Figures 9 and 10).

  python -m diffai_jax.main --config=configs/skipnet18.py \
      --workdir=runs/skipnet18 --config.data_dir=FOLDER

The variant names the abstract layers: `none` (default) or `combo`; dataset and ε
may follow. Made for one GPU with 12 GB; not run at full length here. The paper on
CIFAR-10 at 8/255, after 400 epochs (Table 5): 0.284 standard, 0.238 attacked and
0.212 verified with AdvIS_S18(5); 0.295, 0.230, 0.185 with InSamp_S18 and Combo.
"""

import common

from diffai_jax.app.config import take_word


def get_config(variant: str = "", **flags):
  """The config; `variant` is such as "combo" or "none,cifar10,2/255"."""
  layers, variant = take_word(
      variant, ("none", "combo"), flags.get("abstract_layers")
  )
  config = common.deep("SkipNet-18", variant, flags)
  config.abstract_layers = layers
  config.goal = "InSamp_S18" if layers == "combo" else "AdvIS_S18(5)"
  config.batch_size = 100 if layers == "combo" else 200
  config.optimizer.milestones = (10, 20, 250, 300)
  config.optimizer.l2 = 0.0005
  return config
