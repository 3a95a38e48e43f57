"""A builder that notes the same call of the same values once.

Code computes a thing twice without a thought, such as `x > 0` or a mean; noted
once, its uses move together in an element, which bounds them more sharply.
"""

from typing import Any

import numpy as np

from diffai_jax.graph.building import Builder, Recording
from diffai_jax.graph.jax_values import known


class SharingBuilder(Builder):
  """A graph in the making, in which no two calls are the same."""

  def __init__(self, input_shape, dtype=np.float32):
    super().__init__(input_shape, dtype)
    self._noted: dict[tuple, tuple[Recording, dict]] = {}

  def take(
      self, name: str, values: tuple, arrays: dict, options: dict
  ) -> Recording:
    if not all(isinstance(value, Recording) for value in values):
      return super().take(name, values, arrays, options)
    key = (
        name, tuple(value.number for value in values),
        tuple((key, _identity(array)) for key, array in sorted(arrays.items())),
        repr(sorted(options.items())),
    )
    if key not in self._noted:
      # With the arrays, so that no other ones get their identity.
      self._noted[key] = super().take(name, values, arrays, options), arrays
    return self._noted[key][0]


def _identity(array: Any) -> Any:
  """Numbers by what they are, arrays by which they are."""
  if np.ndim(array) or known(array) is None:
    return "array", id(array)
  return str(getattr(array, "dtype", "")), float(array)
