r"""TruncatedVGG of the paper's Tables 8 and 11; not measured at full length here.

  python -m diffai_jax.main --config=configs/truncated_vgg.py:cifar10,8/255 \
      --workdir=runs/truncated_vgg --config.data_dir=FOLDER

Made for one GPU. The paper on CIFAR-10: 0.459 standard, 0.344 attacked, 0.270
verified by HBox at 8/255, and 0.623, 0.514, 0.455 at 2/255; on MNIST 0.989,
0.977, 0.956 at 0.1 and 0.965, 0.944, 0.876 at 0.3.
"""

from diffai_jax.app.config import base_config


def get_config(variant: str = ""):
  """The config; `variant` is "dataset,epsilon", such as "mnist,0.3"."""
  config = base_config(variant, "cifar10")
  config.network = "TruncatedVGG"
  config.goal = "Mix(Point, Sub(Lin(0, 1.1, 80), Box), Lin(0, 0.5, 80))"
  config.epochs = 200.0
  config.schedule_epochs = 200.0
  config.batch_size = 128
  config.optimizer.milestones = (120, 160)
  config.optimizer.decay = 0.2
  return config
