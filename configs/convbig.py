r"""ConvBig of the paper's Tables 8 and 11; not measured at full length here.

  python -m diffai_jax.main --config=configs/convbig.py:cifar10,8/255 \
      --workdir=runs/convbig --config.data_dir=FOLDER

Made for one GPU. The paper on CIFAR-10: 0.460 standard, 0.342 attacked, 0.252
verified by HBox at 8/255, and 0.619, 0.514, 0.450 at 2/255; on MNIST 0.985,
0.972, 0.956 at 0.1 and 0.970, 0.952, 0.878 at 0.3.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "mnist,0.3"."""
  return common.large_convolutional("ConvBig", variant, flags)
