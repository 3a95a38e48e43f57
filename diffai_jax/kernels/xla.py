"""How XLA compiles: faster programs for CPUs, and none of them twice."""

import os

import jax
import jaxlib

# Programs that compile faster are not worth a file.
_SHORTEST_SECONDS = 0.5

_FLAGS = {
    # Convolutions and dense layers in one more library: 10 to 25% off a training
    # step (docs/performance.md). Sums are still of float32, in another order.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    # Without this pass, barriers stay until programs are fused. It would merge
    # what `nn.Sequential` computes twice to save memory, and fuse what barriers
    # in `transformers` hold apart for speed.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
# The releases of jaxlib that take these flags: XLA ends the process at the sight
# of one that it does not know.
_KNOWN_TO = ("0.10.2", "0.12.0")


def set_flags() -> None:
  """Adds the flags to XLA_FLAGS, which XLA reads when JAX first uses a device.

  Does nothing under another jaxlib, and leaves alone what is set already.
  """
  release = ".".join(jaxlib.__version__.split(".")[:3])
  if release not in _KNOWN_TO:
    return
  words = os.environ.get("XLA_FLAGS", "").split()
  set_already = {word.lstrip("-").partition("=")[0] for word in words}
  words += [
      f"--{name}={value}"
      for name, value in _FLAGS.items()
      if name not in set_already
  ]
  os.environ["XLA_FLAGS"] = " ".join(words)


def use_cache(folder: str) -> None:
  """Keeps compiled programs in a folder, for this process and later ones.

  JAX finds them by the program, the versions and the kind of machine. Does
  nothing if JAX has a folder already (JAX_COMPILATION_CACHE_DIR), or this one
  cannot be written.

  Args:
    folder: where; "~" is the user's home, and an empty name is no cache.
  """
  if not folder or jax.config.jax_compilation_cache_dir:
    return
  folder = os.path.expanduser(folder)
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError:
    return
  if os.access(folder, os.W_OK):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS
    )
