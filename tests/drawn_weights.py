"""Variables of networks, drawn by NumPy.

The program of a network's own initialiser takes as long to compile as the
network's; only what is about initialisers has to run it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def shapes(network, shape, dtype=jnp.float32):
  """What the network's `init` gives for examples of that shape, undrawn."""
  x = jax.ShapeDtypeStruct((1, *shape), dtype)
  return jax.eval_shape(lambda x: network.init(jax.random.key(0), x), x)


def variables(network, shape, seed=0, dtype=jnp.float32):
  """Numbers for all of it that keep values near 1 in size."""
  rng = np.random.default_rng(seed)

  def one(path, leaf):
    if path[-1].key in ("scale", "var", "variance"):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(dtype)
    deviation = 0.3
    if leaf.ndim > 1:
      deviation = 1.2 / math.sqrt(math.prod(leaf.shape[:-1]))
    return (deviation * rng.normal(size=leaf.shape)).astype(dtype)

  return jax.tree_util.tree_map_with_path(one, shapes(network, shape, dtype))
