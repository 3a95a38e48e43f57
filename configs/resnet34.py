r"""ResNet-34 (paper, section 5.1 and Figure 13).

  python -m diffai_jax.main --config=configs/resnet34.py \
      --workdir=runs/resnet34 --config.data_dir=FOLDER

A step takes about 8 GB; `--config.remat=true` or `--config.accumulate=4` take
less. Not run at full length here. The paper on CIFAR-10 at 8/255 (Table 3):
0.351 standard and 0.195 verified, 176 seconds an epoch.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = common.deep("ResNet-34", variant, flags)
  config.goal = "InSampLPA_R34"
  config.optimizer.milestones = (10, 20, 250, 300, 350)
  return config
