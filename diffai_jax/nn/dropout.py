"""Dropout whose rate may be a schedule, on arrays and elements alike."""

import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape, parts, rebuild
from diffai_jax.schedules import NumberOrSchedule, extent, value_at
from diffai_jax.types import Array, Mode, PRNGKey, UsageError

# The collection of the epoch and keys of a step; see `training_state`.
COLLECTION = "training"


def training_state(epoch: Array | float, keys: PRNGKey) -> dict:
  """What `apply` needs besides parameters for a network with Dropout.

  Args:
    epoch: on the schedules' clock; may be traced.
    keys: a random key for each example, [B].
  """
  return {COLLECTION: {"epoch": epoch, "keys": keys}}


class Dropout(nn.Module):
  """Sets a share of the variables to 0 and scales the others up, in training.

  Acts in TRAIN only, if the run has a `training_state`. The points and elements
  of an example share one mask: x ↦ x·m/(1 - rate) is then one linear map, and
  what it does to elements is sound for that map. Evaluation has no dropout.

  Attributes:
    rate: a number or a schedule of the epoch, at least 0 and below 1.

  Raises:
    UsageError: when called, if the rate is out of range.
  """

  rate: NumberOrSchedule

  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    low, high = extent(self.rate)
    if low < 0 or high >= 1:
      raise UsageError(
          f"the dropout rate is {self.rate}; it must be at least 0 and below 1"
          f" at every epoch"
      )
    root = None if self.scope is None else self.scope.root
    if mode is not Mode.TRAIN or root is None or not root.has_variable(
        COLLECTION, "keys"
    ):
      return x
    rate = value_at(self.rate, root.get_variable(COLLECTION, "epoch"))
    own = zlib.crc32("/".join(self.path).encode())
    shape = example_shape(x)

    def mask(key: PRNGKey) -> Array:
      return jax.random.uniform(jax.random.fold_in(key, own), shape) >= rate

    kept = jax.vmap(mask)(root.get_variable(COLLECTION, "keys"))
    factor = jnp.where(kept, 1 / (1 - rate), 0)
    return rebuild(x, [
        transformers.scale_shift(part, factor, 0.0) for part in parts(x)
    ])

  def describe(self, shape: tuple[int, ...]) -> str:
    return f"Dropout p={self.rate}"
