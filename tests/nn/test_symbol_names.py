"""Independent sources never share noise symbols, whatever JAX caches.

relu(x) - relu(-x) is x. Where both fresh errors are taken for the same symbols,
it is bounded by 0; every case here is such a difference of two sources.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax import nn as layers
from diffai_jax.domains.identity import fresh_symbol, is_shared
from diffai_jax.types import Mode


def interval():
  """[-1, 1], a pure zonotope of one symbol, its own each time."""
  return dataclasses.replace(
      domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1))),
      zonotope=True,
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


LIFTS = {"plain": lambda block: block, "remat": nn.remat, "jit": nn.jit}


class Twice(nn.Module):
  """block(x) - block(-x) of one block, or of two; which is x."""

  lift: object
  blocks: int = 1

  @nn.compact
  def __call__(self, x):
    lifted = self.lift(Block)
    first = lifted()
    second = lifted(name="other") if self.blocks == 2 else first
    return transformers.subtract(first(x), second(minus(x)))


@pytest.mark.parametrize("lift", LIFTS)
@pytest.mark.parametrize("blocks", [1, 2])
def test_calls_and_blocks_make_different_symbols(lift, blocks):
  """Also the second time, when the traces of lifted blocks are cached."""
  network = Twice(LIFTS[lift], blocks)
  run = lambda x: network.apply({}, x)
  compiled = jax.jit(run)
  for _ in range(2):
    assert_covers(run(interval()), -1, 1)
    assert_covers(compiled(interval()), -1, 1)
  slope = jax.jit(jax.grad(lambda c: domains.upper(
      run(dataclasses.replace(interval(), center=c))
  )[0, 0]))(jnp.zeros((1, 1)))
  assert np.isfinite(slope)


@pytest.mark.parametrize("lift", LIFTS)
def test_runs_make_different_symbols(lift):
  """Two runs of one network, and of two networks."""
  one, other = Twice(LIFTS[lift]), Twice(LIFTS[lift], name="other")
  x = interval()
  for second in (one, other):
    for _ in range(2):
      assert_covers(transformers.subtract(
          one.apply({}, x), second.apply({}, minus(x))
      ), -2, 2)


def stacked(x, y):
  x = dataclasses.replace(x, uncorrelated=jnp.zeros_like(y.uncorrelated))
  return jax.tree.map(lambda a, b: jnp.stack([a, b]), x, y)


def scanned(layer):
  """Both as the steps of a scan."""
  def call(x, y):
    _, both = jax.lax.scan(
        lambda carry, z: (carry, layer(z)), 0, stacked(x, y)
    )
    return [jax.tree.map(lambda a, i=i: a[i], both) for i in range(2)]
  return call


def mapped(layer):
  """Both as the examples of a vmap."""
  def call(x, y):
    both = jax.vmap(layer)(stacked(x, y))
    return [jax.tree.map(lambda a, i=i: a[i], both) for i in range(2)]
  return call


def each(transformation):
  def lift(layer):
    function = transformation(layer)
    return lambda x, y: [function(x), function(y)]
  return lift


def conditional(layer, other=None):
  return lambda x: jax.lax.cond(
      jnp.max(domains.upper(x)) > -9, layer, other or layer, x
  )


TRANSFORMATIONS = {
    "eager": each(lambda layer: layer),
    "jit": each(jax.jit),
    "jit of jit": each(lambda layer: jax.jit(jax.jit(layer))),
    "checkpoint": each(jax.checkpoint),
    "vjp": each(lambda layer: lambda x: jax.vjp(layer, x)[0]),
    "cond": each(conditional),
    "scan": scanned,
    "vmap": mapped,
}
SOURCES = {
    "ReLU": lambda x: layers.ReLU()(x, Mode.TRAIN),
    "transformer": transformers.relu,
    "CorrelateAll": lambda x: layers.CorrelateAll()(
        dataclasses.replace(transformers.decorrelate_all(x), zonotope=False),
        Mode.TRAIN,
    ),
    "input": lambda x: domains.correlated_box(x.center, jnp.ones((1, 1))),
}
# Of f(x) - f(-x), with x within [-1, 1].
REACH = {"ReLU": 1, "transformer": 1, "CorrelateAll": 2, "input": 2}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@pytest.mark.parametrize("outer", ["eager", "jit"])
def test_independent_sources_never_cancel(outer, transformation, source):
  """Under every transformation, its cache cold and warm."""
  call = TRANSFORMATIONS[transformation](SOURCES[source])

  def difference(x):
    return transformers.subtract(*call(x, minus(x)))

  def side_by_side(x):
    both = transformers.concat(call(x, minus(x)))
    return transformers.dense(both, jnp.array([[1.0], [-1.0]]), jnp.zeros(1))

  x = interval()
  for join in (difference, side_by_side):
    run = jax.jit(join) if outer == "jit" else join
    for _ in range(2):
      found = run(x)
      reach = REACH[source]
      assert domains.lower(found)[0, 0] <= -reach
      assert domains.upper(found)[0, 0] >= reach


def test_branches_of_a_cond_must_name_what_they_make():
  """Two traces make two names, which JAX does not let pass for one."""
  layer = conditional(
      lambda x: layers.ReLU()(x, Mode.TRAIN),
      lambda x: layers.ReLU()(minus(x), Mode.TRAIN),
  )
  with pytest.raises(TypeError):
    layer(interval())
  named = conditional(
      lambda x: transformers.relu(x, symbol="mine"),
      lambda x: transformers.relu(minus(x), symbol="mine"),
  )
  assert "mine" in named(interval()).correlated


def test_inputs_with_default_arguments_are_independent():
  one = domains.correlated_box(jnp.ones((1, 1)), 0.2)
  other = domains.correlated_box(jnp.ones((1, 1)), 0.2)
  assert_covers(transformers.subtract(one, other), -0.4, 0.4)
  assert_covers(transformers.subtract(one, one), 0, 0)
  named = [
      domains.correlated_box(jnp.ones((1, 1)), 0.2, "mine") for _ in range(2)
  ]
  assert_covers(transformers.subtract(*named), 0, 0)


def test_parts_of_a_product_make_different_symbols():
  x = interval()
  for layer in (layers.ReLU(), layers.ToZonotope(), layers.LeakyReLU(0.0)):
    pair = domains.Product((
        dataclasses.replace(x, uncorrelated=jnp.ones((1, 1))),
        dataclasses.replace(minus(x), uncorrelated=jnp.ones((1, 1))),
    ))
    first, second = layer(pair, Mode.TRAIN).parts
    difference = transformers.subtract(first, second)
    # x + β within [-2, 2], minus -x + β' within as much.
    assert float(domains.upper(difference)[0, 0]) >= 2 - 1e-5


def test_no_layer_can_take_anothers_name():
  """Called like the input, like another layer's second call, like a symbol."""

  class Swap(nn.Module):

    @nn.compact
    def __call__(self, x):
      y = transformers.gather(x, [1, 0])
      y = layers.DecorrelateAll()(y, Mode.TRAIN)
      y = layers.CorrelateAll(name="input")(y, Mode.TRAIN)
      return transformers.subtract(x, y)

  square = domains.correlated_box(jnp.zeros((1, 2)), jnp.ones((1, 2)), "input")
  assert_covers(Swap().apply({}, square), -2, 2)

  class Numbered(nn.Module):

    @nn.compact
    def __call__(self, x):
      relu = layers.ReLU(name="c")
      first, second = relu(x), relu(minus(x))
      third = layers.ReLU(name="c#1")(minus(x))
      return transformers.concat([
          transformers.subtract(first, second),
          transformers.subtract(first, third),
      ])

  x = dataclasses.replace(
      domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1)), "c"),
      zonotope=True,
  )
  found = Numbered().apply({}, x)
  assert np.all(np.asarray(domains.upper(found)) >= 1)
  with pytest.raises(ValueError, match="leave out the # and what follows"):
    domains.correlated_box(jnp.zeros((1, 1)), 1.0, "c#999999999999")


def test_adopted_symbols_are_shared():
  """What two functions of one result have in common cancels."""
  half = jax.jit(lambda x: layers.ReLU()(x, Mode.TRAIN))
  result = transformers.adopt_symbols(half(interval()))
  again = transformers.adopt_symbols(half(interval()))
  assert_covers(transformers.subtract(result, result), 0, 0)
  assert_covers(transformers.subtract(result, again), -1, 1)
  strange = half(interval())
  assert float(domains.upper(transformers.subtract(strange, strange))[0, 0]) >= 0


def test_symbols_are_shared_inside_of_their_trace_and_of_inner_ones():
  """x's own symbols cancel wherever x goes; so do a layer's own in its trace."""

  def run(x):
    y = layers.ReLU()(x, Mode.TRAIN)
    inner = jax.jit(lambda z: transformers.subtract(z, y))
    return transformers.concat([
        transformers.subtract(y, y), inner(y),
        jax.checkpoint(lambda z: transformers.subtract(z, z))(y),
    ])

  for function in (run, jax.jit(run)):
    for _ in range(2):
      found = function(interval())
      assert np.abs(np.asarray(domains.upper(found))).max() < 1e-5


def test_names_of_one_layer_sort_in_the_order_of_their_making():
  """Blocks are summed in the order of their names, which must not wander."""
  names = [fresh_symbol("layer") for _ in range(120)]
  assert sorted(names) == names
  assert all(map(is_shared, names))


def test_layers_outside_of_a_network_make_different_symbols():
  x = interval()
  assert_covers(
      transformers.subtract(layers.ReLU()(x), layers.ReLU()(minus(x))), -1, 1
  )
