"""What tests of elementwise transformers compile."""

import dataclasses
import functools

import jax

from diffai_jax import domains


@functools.cache
def compiled(transform):
  """One program: f of an array, and bounds of a box around it by each rule."""

  @jax.jit
  def run(center, radius):
    element = domains.correlated_box(center, radius, "s")
    bounds = {}
    for rule in ("box", "deepz"):
      result = transform(dataclasses.replace(element, relu=rule))
      bounds[rule] = domains.lower(result), domains.upper(result)
    return transform(center), bounds

  return run
