"""Names of noise symbols: different calls, different symbols."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax import nn as layers
from diffai_jax.types import Mode

INTERVAL = dataclasses.replace(
    domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1))), zonotope=True
)


def minus(x):
  return transformers.scale_shift(x, -1.0, 0.0)


def assert_covers(element, low, high):
  """Within rounding, [low, high] and no less."""
  found = [float(f(element)[0, 0]) for f in (domains.lower, domains.upper)]
  np.testing.assert_allclose(found, [low, high], atol=1e-5)
  assert found[0] <= low and high <= found[1]


class Block(nn.Module):
  """A ReLU behind a module of its own."""

  @nn.compact
  def __call__(self, x):
    return layers.ReLU()(x, Mode.TRAIN)


class Twice(nn.Module):
  """block(x) - block(-x), which is x: from -1 to 1."""

  lift: object

  @nn.compact
  def __call__(self, x):
    block = self.lift(Block)()
    return transformers.subtract(block(x), block(minus(x)))


@pytest.mark.parametrize("lift", [lambda block: block, nn.remat, nn.jit],
                         ids=["plain", "remat", "jit"])
def test_a_block_called_twice_makes_different_symbols(lift):
  """relu(x) - relu(-x) over [-1, 1] is [-1, 1]; DiffAI v3 says [0, 0].

  A lifted block hides from its layers that it was called before.
  """
  run = lambda x: Twice(lift).apply({}, x)
  assert_covers(run(INTERVAL), -1, 1)
  assert_covers(jax.jit(run)(INTERVAL), -1, 1)
  slope = jax.grad(lambda c: domains.upper(
      run(dataclasses.replace(INTERVAL, center=c))
  )[0, 0])(INTERVAL.center)
  assert np.isfinite(slope)


def test_layers_outside_of_a_network_make_different_symbols():
  assert_covers(
      transformers.subtract(
          layers.ReLU()(INTERVAL), layers.ReLU()(minus(INTERVAL))
      ), -1, 1,
  )


def test_networks_with_names_can_be_compared():
  """Elements of two runs meet without sharing what each run has made."""
  one, two = (
      Twice(lambda block: block, name=name).apply({}, x)
      for name, x in (("one", INTERVAL), ("two", minus(INTERVAL)))
  )
  # 2x; each run's own fresh error is its own.
  assert_covers(transformers.subtract(one, two), -2, 2)


def test_no_layer_can_take_the_inputs_name():
  """A layer called "input" makes other symbols than those of the input box."""

  class Swap(nn.Module):

    @nn.compact
    def __call__(self, x):
      y = transformers.gather(x, [1, 0])
      y = layers.DecorrelateAll()(y, Mode.TRAIN)
      y = layers.CorrelateAll(name="input")(y, Mode.TRAIN)
      return transformers.subtract(x, y)

  square = domains.correlated_box(jnp.zeros((1, 2)), jnp.ones((1, 2)))
  assert_covers(Swap().apply({}, square), -2, 2)
