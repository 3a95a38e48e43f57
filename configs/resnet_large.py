r"""ResNet-Large with LargeCombo (paper, section 5.2 and Figure 11).

  python -m diffai_jax.main --config=configs/resnet_large.py \
      --workdir=runs/resnet_large --config.data_dir=FOLDER

The variant names the abstract layers: `large_combo` (default) or `none`; dataset
and ε may follow. Made for one GPU with 12 GB; not run at full length here. The
paper on CIFAR-10 at 8/255, after 100 epochs of 527 seconds (Table 3): 0.381
standard and 0.030 verified. It names no optimiser; ResNet-Tiny's is used.
"""

from diffai_jax.app.config import base_config, take_word


def get_config(variant: str = ""):
  """The config; `variant` is such as "none" or "large_combo,cifar10,2/255"."""
  layers, variant = take_word(variant, ("large_combo", "none"))
  config = base_config(variant, "cifar10")
  config.network = "ResNet-Large"
  config.abstract_layers = layers
  config.initializer = "dirac"
  config.goal = "BiAdv_L"
  config.epochs = 100.0
  config.schedule_epochs = 100.0
  config.batch_size = 50
  config.optimizer.learning_rate = 1e-3
  config.optimizer.l2 = 0.01
  return config
