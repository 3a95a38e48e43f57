r"""TruncatedVGG of the paper's Tables 8 and 11; not measured at full length here.

  python -m diffai_jax.main --config=configs/truncated_vgg.py:cifar10,8/255 \
      --workdir=runs/truncated_vgg --config.data_dir=FOLDER

Made for one GPU. The paper on CIFAR-10: 0.459 standard, 0.344 attacked, 0.270
verified by HBox at 8/255, and 0.623, 0.514, 0.455 at 2/255; on MNIST 0.989,
0.977, 0.956 at 0.1 and 0.965, 0.944, 0.876 at 0.3.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "mnist,0.3"."""
  return common.large_convolutional("TruncatedVGG", variant, flags)
