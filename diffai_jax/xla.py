"""Flags that make XLA's programs for CPUs faster, where they are known."""

import os

import jaxlib

# Convolutions and dense layers in one more library: 10 to 25% off a training
# step (docs/performance.md). Sums are still of float32, in another order.
_FLAGS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}
# The releases of jaxlib that take these flags: XLA ends the process at the sight
# of one that it does not know.
_KNOWN_TO = ("0.10.2", "0.12.0")


# On CPUs this pass merges what `nn.Sequential` computes twice to save memory.
_FLAGS_OF_REMAT = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def set_flags(remat: bool = False) -> None:
  """Adds the flags to XLA_FLAGS, which XLA reads when JAX first uses a device.

  Does nothing under another jaxlib, and leaves alone what is set already.

  Args:
    remat: whether networks compute stages once more for gradients.
  """
  release = ".".join(jaxlib.__version__.split(".")[:3])
  if release not in _KNOWN_TO:
    return
  words = os.environ.get("XLA_FLAGS", "").split()
  set_already = {word.lstrip("-").partition("=")[0] for word in words}
  flags = _FLAGS | (_FLAGS_OF_REMAT if remat else {})
  words += [
      f"--{name}={value}"
      for name, value in flags.items()
      if name not in set_already
  ]
  os.environ["XLA_FLAGS"] = " ".join(words)
