r"""ResNet-18 (paper, section 5.1 and Figure 12).

  python -m diffai_jax.main --config=configs/resnet18.py \
      --workdir=runs/resnet18 --config.data_dir=FOLDER

A step takes about 5 GB; `--config.remat=true` or `--config.accumulate=4` take
less. Not run at full length here. The paper on CIFAR-10 at 8/255 (Table 3):
0.323 standard and 0.223 verified, 233 seconds an epoch.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = common.deep("ResNet-18", variant, flags)
  config.goal = "AdvISLPA_R18(5)"
  config.optimizer.milestones = (10, 20, 250, 300, 350)
  return config
