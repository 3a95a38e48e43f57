r"""DenseNet-100 (paper, section 5.1 and Figure 14).

  python -m diffai_jax.main --config=configs/densenet100.py \
      --workdir=runs/densenet100 --config.data_dir=FOLDER

A step takes about 9 GB; `--config.remat=true` or `--config.accumulate=5` take
less. Not run at full length here. The paper on CIFAR-10 at 8/255 (Table 3):
0.364 standard and 0.219 verified, by Box alone, 727 seconds an epoch.
"""

from diffai_jax.app.config import base_config


def get_config(variant: str = ""):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = base_config(variant, "cifar10")
  config.network = "DenseNet-100"
  config.initializer = "dirac"
  config.goal = "AdvISLPA_D100(5)"
  config.epochs = 400.0
  config.schedule_epochs = 400.0
  config.batch_size = 50
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.milestones = (20, 50, 200, 250, 300)
  config.certify.domains = ("Box",)
  return config
