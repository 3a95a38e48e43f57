r"""ResNet-Tiny (paper, section 5.1 and Figures 6 to 8).

  python -m diffai_jax.main --config=configs/resnet_tiny.py:few_combo \
      --workdir=runs/resnet_tiny --config.data_dir=FOLDER

The variant names the abstract layers: `none` (default), `few_combo`,
`many_fixed`; dataset and ε may follow, `few_combo,cifar10,2/255`. Made for one
GPU with 12 GB; not run at full length here. The paper on CIFAR-10 at 8/255:
0.291 standard and 0.196 verified after 350 epochs with FewCombo, 0.294 and 0.177
without (Table 4), 0.402 and 0.232 with ManyFixed and AdvISLPAUS(1) (Table 3).
"""

import common

from diffai_jax.app.config import take_word


def get_config(variant: str = "", **flags):
  """The config; `variant` is such as "few_combo" or "many_fixed,cifar10"."""
  layers, variant = take_word(
      variant, ("none", "few_combo", "many_fixed"), flags.get("abstract_layers")
  )
  config = common.wide_residual("ResNet-Tiny", variant, flags, 350.0)
  config.abstract_layers = layers
  config.goal = "AdvISLPAUS(1)" if layers == "many_fixed" else "AdvISLPA(1)"
  config.optimizer.milestones = (200, 250, 300)  # As of IBP, Gowal et al. 2018.
  return config
