r"""ConvLargeIBP of the paper's Tables 8 and 11; not measured at full length here.

  python -m diffai_jax.main --config=configs/convlarge_ibp.py:cifar10,8/255 \
      --workdir=runs/convlarge_ibp --config.data_dir=FOLDER

Made for one GPU. The paper on CIFAR-10: 0.462 standard, 0.347 attacked, 0.272
verified by HBox at 8/255, and 0.611, 0.514, 0.445 at 2/255; on MNIST 0.987,
0.975, 0.958 at 0.1 and 0.972, 0.954, 0.888 at 0.3.
"""

import common


def get_config(variant: str = "", **flags):
  """The config; `variant` is "dataset,epsilon", such as "mnist,0.3"."""
  return common.large_convolutional("ConvLargeIBP", variant, flags)
