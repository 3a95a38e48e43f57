"""The region of some of a batch's examples."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from diffai_jax.regions.box_bounds import Bounds
from diffai_jax.regions.cut import Cut
from diffai_jax.regions.l2 import L2
from diffai_jax.regions.linf import aligned
from diffai_jax.types import Array


def of_examples(region, images: Array, examples: Array):
  """A region around some examples, each any number of times.

  Args:
    region: around the images: Linf, L2 or Bounds, or what is cut of them.
    images: [B, ...].
    examples: numbers of the examples, [R].

  Returns:
    (region, images), around images[examples]. Boxes come as their bounds.
  """
  if isinstance(region, Cut):
    own, around = of_examples(region.region, images, examples)
    cut = region.rows[examples], region.constants[examples]
    return Cut(own, *cut), around
  if not isinstance(region, L2):
    low, high = region.bounds(images)
    return Bounds(low[examples], high[examples]), images[examples]
  epsilon = jnp.asarray(aligned(region.epsilon, np.shape(images)))
  if epsilon.ndim and epsilon.shape[0] > 1:
    epsilon = epsilon[examples]
  return dataclasses.replace(region, epsilon=epsilon), images[examples]

