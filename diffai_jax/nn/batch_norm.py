"""Batch normalisation (Ioffe and Szegedy 2015) for points and bounds alike.

In a training step the statistics are those of the clean images, of the whole
batch on all devices: `batch_statistics` runs the network on them first. Attacks,
points and elements of that step then go through the same affine map, and the
gradient flows through its statistics. Everywhere else the map has the
population's statistics, a moving mean that training keeps in its state; the
weights that `networks.fold` makes of it need no normalisation at all.
"""

from collections.abc import Mapping
import dataclasses
import math

from flax import linen as nn
import jax
from jax import lax
from jax.extend import core
import jax.numpy as jnp

from diffai_jax import transformers
from diffai_jax.domains.product import Value, example_shape, value_dtype
from diffai_jax.nn.checks import check_input, check_shape, param
from diffai_jax.nn.naming import place
from diffai_jax.types import Array, Mode, UsageError

POPULATION = "batch_stats"  # The collection of the moving means.
BATCH = "statistics_of_batch"  # The collection of one step's statistics.
# The collection that says over which mapped axes statistics are taken: a part of
# the variables, so that no trace of other axes can stand in for this one.
_OVER = "statistics_over"
_TINY = 1e-5  # Added to variances.
_KEPT = 0.9  # Share of the moving mean that a step keeps.
# The factor scale / √(variance + tiny) is rounded three times, and may be again
# differently in another program: what `scale_shift` allows for.
_TERMS = 8


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Axes:
  """Names of mapped axes."""

  names: tuple[str, ...]


class BatchNorm(nn.Module):
  """scale·(x - mean)/√(variance + 1e-5) + bias, a channel of the last axis.

  Sound: for given statistics this is an affine map, bounded by `scale_shift`.

  Raises:
    UsageError: when asked for statistics of anything but an array, of a single
      value a channel, or under a mapped axis that it was not told of; and when
      called with weights for another number of channels.
  """

  @nn.compact
  def __call__(self, x: Value, mode: Mode = Mode.CONCRETE) -> Value:
    check_input(self, x)
    shape = example_shape(x)[-1:]
    scale = param(self, "scale", nn.initializers.ones_init(), shape)
    bias = param(self, "bias", nn.initializers.zeros_init(), shape)
    mean = self.variable(POPULATION, "mean", jnp.zeros, shape).value
    variance = self.variable(POPULATION, "variance", jnp.ones, shape).value
    check_shape(self, "mean", mean, shape)
    check_shape(self, "variance", variance, shape)
    if not self.is_initializing() and self.is_mutable_collection(BATCH):
      mean, variance = moments(self, x, axes_of(self))
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


def moments(
    layer: nn.Module, x: Value, over: tuple[str, ...], axis: int = -1
) -> tuple[Array, Array]:
  """Mean and variance of each channel, over the whole batch.

  Args:
    layer: that asks, for messages.
    x: its input, an array.
    over: names of the mapped axes that share the batch.
    axis: of the channels.

  Raises:
    UsageError: if x is no array, or has a single value a channel.
  """
  if not isinstance(x, jax.Array):
    raise UsageError(
        f"statistics of a batch are those of images, not of {type(x).__name__}"
    )
  values = x.size // x.shape[axis] * math.prod(map(lax.axis_size, over))
  if values == 1:
    raise UsageError(
        f"{place(layer)} is asked for statistics of a single value a channel,"
        f" whose variance is 0; give it two images or more in each part of a"
        f" batch"
    )
  axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
  mean = _mean_over(jnp.mean(x, axes), over)
  apart = jnp.square(x - jnp.expand_dims(mean, axes))
  return mean, _mean_over(jnp.mean(apart, axes), over)


def axes_of(layer: nn.Module) -> tuple[str, ...]:
  """The mapped axes that `batch_statistics` was told of.

  Raises:
    UsageError: if an axis is mapped that it was not told of, or none is that it
      was told of.
  """
  # As Flax does: JAX has no public function for the names of mapped axes.
  mapped = core.unsafe_get_axis_names_DO_NOT_USE()
  told = jax.tree.leaves(
      layer.variables.get(_OVER, {}), is_leaf=lambda x: isinstance(x, _Axes)
  )
  if told:
    names = told[0].names
    missing = [name for name in names if name not in mapped]
    if not missing:
      return names
    reason = f"no axis {missing[0]!r} is mapped here"
  elif not mapped:
    return ()
  else:
    reason = f"the axis {mapped[0]!r} is mapped here"
  raise UsageError(
      f"{place(layer)} is asked for statistics of a batch, but {reason}; give"
      f" batch_statistics the axes to take them over, or () for none"
  )


def factor(scale: Array, variance: Array) -> Array:
  """What a normalised channel is multiplied by."""
  return scale / jnp.sqrt(variance + _TINY)


def batch_statistics(
    network: nn.Module,
    variables: dict,
    images: Array,
    over: str | tuple[str, ...] | None = None,
) -> dict:
  """Each layer's mean and variance of the images.

  Args:
    network: called as network(images, mode).
    variables: with the collections "params" and, if the network normalises,
      POPULATION.
    images: [B, H, W, C]; under `pmap`, `shard_map` or `vmap` this device's
      share.
    over: the names of the mapped axes that share the batch, such as AXIS in a
      training step. () are the statistics of these images alone; None too, but
      only where no axis is mapped.

  Returns:
    The collection BATCH: to be given to `apply` beside the others, and to
    `moving_mean`. Empty if nothing normalises.

  Raises:
    UsageError: if an axis is mapped and `over` is None, or one of `over` is
      not.
  """
  if not variables.get(POPULATION):
    return {}
  if over is not None:
    names = (over,) if isinstance(over, str) else tuple(over)
    axes = _for_each_layer(variables[POPULATION], _Axes(names))
    variables = {**variables, _OVER: axes}
  return network.apply(variables, images, mutable=[BATCH])[1][BATCH]


def _for_each_layer(population: Mapping, axes: _Axes) -> dict:
  """A collection with `axes` for each layer that has statistics."""
  if not any(isinstance(value, Mapping) for value in population.values()):
    return {"axes": axes}
  return {
      name: _for_each_layer(value, axes)
      for name, value in population.items()
      if isinstance(value, Mapping)
  }


def moving_mean(population: dict, batch: dict) -> dict:
  """The population's statistics after one more batch."""
  return jax.tree.map(
      lambda old, new: _KEPT * old + (1 - _KEPT) * new, population, batch
  )


def _mean_over(value: Array, axes: tuple[str, ...]) -> Array:
  """The mean over mapped axes; of none, `value`."""
  return lax.pmean(value, axes) if axes else value
