"""Batch normalisation (Ioffe and Szegedy 2015) for points and bounds alike.

In a training step the statistics are those of the clean images, of the whole
batch on all devices: `batch_statistics` runs the network on them first. Attacks,
points and elements of that step then go through the same affine map, and the
gradient flows through its statistics. Everywhere else the map has the
population's statistics, a moving mean that training keeps in its state; the
weights that `networks.fold` makes of it need no normalisation at all.
"""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape, value_dtype
from diffai_jax.types import AXIS, Array, Mode, UsageError

POPULATION = "batch_stats"  # The collection of the moving means.
BATCH = "statistics_of_batch"  # The collection of one step's statistics.
_TINY = 1e-5  # Added to variances.
_KEPT = 0.9  # Share of the moving mean that a step keeps.
# The factor scale / √(variance + tiny) is rounded three times, and may be again
# differently in another program: what `scale_shift` allows for.
_TERMS = 8


class BatchNorm(nn.Module):
  """scale·(x - mean)/√(variance + 1e-5) + bias, a channel of the last axis.

  Sound: for given statistics this is an affine map, bounded by `scale_shift`.

  Raises:
    UsageError: when asked for statistics of anything but an array.
  """

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    shape = example_shape(x)[-1:]
    scale = self.param("scale", nn.initializers.ones_init(), shape)
    bias = self.param("bias", nn.initializers.zeros_init(), shape)
    mean = self.variable(POPULATION, "mean", jnp.zeros, shape).value
    variance = self.variable(POPULATION, "variance", jnp.ones, shape).value
    if not self.is_initializing() and self.is_mutable_collection(BATCH):
      mean, variance = _moments(x)
      self.put_variable(BATCH, "mean", mean)
      self.put_variable(BATCH, "variance", variance)
    elif self.has_variable(BATCH, "mean"):
      mean = self.get_variable(BATCH, "mean")
      variance = self.get_variable(BATCH, "variance")
    dtype = value_dtype(x)  # Whose rounding `_TERMS` counts.
    by = factor(scale.astype(dtype), variance.astype(dtype))
    x = transformers.scale_shift(x, 1.0, -mean)
    return transformers.scale_shift(x, by, bias, terms=_TERMS)

  def describe(self, shape: tuple[int, ...]) -> str:
    return "BatchNorm"


def factor(scale: Array, variance: Array) -> Array:
  """What a normalised channel is multiplied by."""
  return scale / jnp.sqrt(variance + _TINY)


def batch_statistics(network: nn.Module, variables: dict, images: Array) -> dict:
  """Each layer's mean and variance of the images, over all devices.

  Args:
    network: called as network(images, mode).
    variables: with the collections "params" and, if the network normalises,
      POPULATION.
    images: this device's share, [B, H, W, C].

  Returns:
    The collection BATCH: to be given to `apply` beside the others, and to
    `moving_mean`. Empty if nothing normalises.
  """
  if not variables.get(POPULATION):
    return {}
  return network.apply(variables, images, mutable=[BATCH])[1][BATCH]


def moving_mean(population: dict, batch: dict) -> dict:
  """The population's statistics after one more batch."""
  return jax.tree.map(
      lambda old, new: _KEPT * old + (1 - _KEPT) * new, population, batch
  )


def _moments(x: Value) -> tuple[Array, Array]:
  if not isinstance(x, jax.Array):
    raise UsageError(
        f"statistics of a batch are those of images, not of {type(x).__name__}"
    )
  axes = tuple(range(x.ndim - 1))
  mean = _over_devices(jnp.mean(x, axes))
  return mean, _over_devices(jnp.mean(jnp.square(x - mean), axes))


def _over_devices(value: Array) -> Array:
  """The mean over all devices of a pmapped step; outside of one, `value`."""
  try:
    return lax.pmean(value, AXIS)
  except NameError:  # No such axis: there is one device.
    return value
