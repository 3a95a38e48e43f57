r"""ResNet-Large with LargeCombo (paper, section 5.2 and Figure 11).

  python -m diffai_jax.main --config=configs/resnet_large.py \
      --workdir=runs/resnet_large --config.data_dir=FOLDER

The variant names the abstract layers: `large_combo` (default) or `none`; dataset
and ε may follow. Made for one GPU with 12 GB; not run at full length here. The
scheme takes 230 epochs. The paper halted at epoch 100, of 527 seconds each, before
it had the whole of ε, and has 0.381 standard and 0.030 verified on CIFAR-10 at
8/255 (Table 3); `--config.epochs=100 --config.schedule_epochs=100` is that run. It
names no optimiser; ResNet-Tiny's is used.
"""

import common

from diffai_jax.app.config import take_word


def get_config(variant: str = "", **flags):
  """The config; `variant` is such as "none" or "large_combo,cifar10,2/255"."""
  layers, variant = take_word(
      variant, ("large_combo", "none"), flags.get("abstract_layers")
  )
  config = common.wide_residual("ResNet-Large", variant, flags, 230.0)
  config.abstract_layers = layers
  config.goal = "BiAdv_L"
  return config
