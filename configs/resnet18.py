r"""ResNet-18 (paper, section 5.1 and Figure 12).

  python -m diffai_jax.main --config=configs/resnet18.py \
      --workdir=runs/resnet18 --config.data_dir=FOLDER

A step takes about 5 GB; `--config.remat=true` or `--config.accumulate=4` take
less. Not run at full length here. The paper on CIFAR-10 at 8/255 (Table 3):
0.323 standard and 0.223 verified, 233 seconds an epoch.
"""

from diffai_jax.app.config import base_config


def get_config(variant: str = ""):
  """The config; `variant` is "dataset,epsilon", such as "cifar10,2/255"."""
  config = base_config(variant, "cifar10")
  config.network = "ResNet-18"
  config.initializer = "dirac"
  config.goal = "AdvISLPA_R18(5)"
  config.epochs = 400.0
  config.schedule_epochs = 400.0
  config.batch_size = 200
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.milestones = (10, 20, 250, 300, 350)
  return config
