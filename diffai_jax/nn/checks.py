"""Checks of a layer's input and weights, in messages that name the layer."""

from typing import Callable

from flax import linen as nn
import jax.numpy as jnp

from diffai_jax.domains.product import Value, center, example_shape, parts
from diffai_jax.nn.naming import place
from diffai_jax.types import Array, UsageError, shown


def check_input(layer: nn.Module, x: Value, axes: str | None = None) -> None:
  """Checks what flows into a layer.

  Args:
    layer: called with x.
    x: arrays and elements.
    axes: of one example, such as "[H, W, C]"; None is any.

  Raises:
    UsageError: if its numbers are no floats, or it has other axes.
  """
  for part in parts(x):
    dtype = jnp.result_type(center(part))
    if not jnp.issubdtype(dtype, jnp.floating):
      raise UsageError(
          f"the input of {place(layer)} is of {dtype.name}; expected floats:"
          f" pixels go from 0 to 1, as diffai_jax.data.to_unit_range makes"
          f" them of bytes"
      )
  shape = example_shape(x)
  if axes is not None and len(shape) != axes.count(",") + 1:
    flatten = "; put a Flatten before it" if axes == "[n]" else ""
    raise UsageError(
        f"the input of {place(layer)} is {list(shape)} an example; expected"
        f" {axes}{flatten}"
    )


def check_positive(layer: nn.Module, *names: str) -> None:
  """Checks that some of a layer's attributes are whole numbers above 0.

  Raises:
    UsageError: if one is not.
  """
  for name in names:
    value = getattr(layer, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise UsageError(
          f"{place(layer)} has {name}={shown(value)}; expected a whole number"
          f" of at least 1"
      )


def param(
    layer: nn.Module, name: str, init: Callable, shape: tuple[int, ...]
) -> Array:
  """`layer.param`, whose shape must be the one that its input asks for.

  Raises:
    UsageError: if the weights that the run was given have another.
  """
  if layer.has_variable("params", name):
    check_shape(layer, name, layer.get_variable("params", name), shape)
  return layer.param(name, init, shape)


def check_shape(
    layer: nn.Module, name: str, value: Array, shape: tuple[int, ...]
) -> None:
  """Checks the shape of a layer's weights or statistics.

  Raises:
    UsageError: if it is not `shape`.
  """
  if jnp.shape(value) != tuple(shape):
    raise UsageError(
        f"{place(layer)} has a {name} of {list(jnp.shape(value))}, but its"
        f" input asks for {list(shape)}; give it weights of this network, and"
        f" images of the size that it was made for"
    )


def check_same(
    join: nn.Module, first: tuple[int, ...], second: tuple[int, ...]
) -> None:
  """Checks the shapes of what two branches give.

  Raises:
    UsageError: if they differ.
  """
  if first != second:
    raise UsageError(
        f"{place(join)} cannot join {list(first)} of its first branch and"
        f" {list(second)} of its second; give both the same strides, paddings"
        f" and channels"
    )
