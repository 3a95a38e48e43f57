r"""DenseNet-100 (paper, section 5.1 and Figure 14).

  python -m diffai_jax.main --config=configs/densenet100.py \
      --workdir=runs/densenet100 --config.data_dir=FOLDER

A step takes about 9 GB; `--config.remat=true` or `--config.accumulate=5` take
less. Not run at full length here. The paper on CIFAR-10 at 8/255 (Table 3):
0.364 standard and 0.219 verified, by Box alone, 727 seconds an epoch.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = common.deep("DenseNet-100", variant, flags)
  config.goal = "AdvISLPA_D100(5)"
  config.batch_size = 50
  config.optimizer.milestones = (20, 50, 200, 250, 300)
  config.certify.methods = ("Box",)
  return config
