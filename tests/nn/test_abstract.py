"""Abstract layers as modules: modes, names of symbols, random draws."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax import nn as layers
from diffai_jax.domains import HybridZonotope, Product
from diffai_jax.nn.abstract import RNG
from diffai_jax.types import Mode, UsageError

LAYERS = (
    layers.CorrelateAll(), layers.CorrelateFixed(3), layers.CorrelateMax(3),
    layers.CorrelateMaxPool(2), layers.CorrelateRandom(3),
    layers.DecorrelateAll(), layers.DecorrelateMin(1),
    layers.DecorrelateRandom(1), layers.ToZonotope(), layers.ToHybrid("deepz"),
    layers.DeepLoss(0.5),
)


def element():
  rng = np.random.default_rng(0)
  shape = (2, 4, 4, 2)
  generators = rng.normal(size=(2, 3, 4, 4, 2)).astype(np.float32)
  one = np.ones(shape, np.float32)
  found = HybridZonotope(one, one, {"input": domains.Dense(generators)})
  return jax.tree.map(jnp.asarray, found)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda l: type(l).__name__)
def test_arrays_pass_unchanged_in_every_mode(layer):
  x = jnp.ones((2, 4, 4, 2))
  for mode in Mode:
    assert layer.apply({}, x, mode) is x
    if mode is not Mode.CONCRETE:
      product = layer.apply({}, Product((x, element())), mode)
      assert product[0] is x


@pytest.mark.parametrize("layer", LAYERS, ids=lambda l: type(l).__name__)
def test_only_train(layer):
  x = element()
  changes = not isinstance(layer, layers.DeepLoss)
  assert (layer.apply({}, x, Mode.TRAIN) is not x) == changes
  assert (layer.apply({}, x, Mode.CERTIFY) is not x) == changes
  only = layer.clone(only_train=True)
  assert only.apply({}, x, Mode.CERTIFY) is x
  assert (only.apply({}, x, Mode.TRAIN) is not x) == changes
  assert f"only_train={True}" in only.describe((4, 4, 2))


def test_a_layer_called_twice_makes_different_symbols():
  """One ReLU on both branches: relu(x) - relu(-x) reaches -1 and 1."""

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, mode):
      return layers.ReLU()(x, mode)

  class Both(nn.Module):
    @nn.compact
    def __call__(self, x, mode):
      block = Block()
      minus = transformers.scale_shift(x, -1.0, 0.0)
      return transformers.subtract(block(x, mode), block(minus, mode))

  x = HybridZonotope(jnp.zeros((1, 1)), jnp.ones((1, 1)), zonotope=True)
  out = jax.jit(lambda x: Both().apply({}, x, Mode.CERTIFY))(x)
  made = [name for name in out.correlated if "Block_0/ReLU_0#" in name]
  assert len(made) == 2
  assert domains.lower(out)[0, 0] <= -1 and domains.upper(out)[0, 0] >= 1


def test_random_layers_draw_anew_with_a_key_and_alike_without():
  layer, x = layers.CorrelateRandom(3), element()
  draw = lambda **kwargs: np.asarray(
      layer.apply({}, x, Mode.TRAIN, **kwargs).uncorrelated
  )
  np.testing.assert_array_equal(draw(), draw())
  one, other = (draw(rngs={RNG: jax.random.key(seed)}) for seed in (1, 2))
  assert (one != other).any()


def test_selections_carry_no_gradient_and_coefficients_do():
  def total(radius):
    x = HybridZonotope(jnp.ones((1, 5)), radius)
    out = layers.CorrelateMax(2).apply({}, x, Mode.TRAIN)
    return domains.radius(out).sum()

  radius = np.arange(5, dtype=np.float32)[None]
  np.testing.assert_allclose(jax.jit(jax.grad(total))(radius), 1)


def test_what_cannot_be_is_refused():
  with pytest.raises(UsageError, match="CorrelateMax has k=-1"):
    layers.CorrelateMax(-1).apply({}, element(), Mode.TRAIN)
  with pytest.raises(UsageError, match="for the 3 axes"):
    layers.CorrelateMaxPool((2, 2)).apply({}, element(), Mode.TRAIN)


def test_listing_lines_are_the_papers():
  lines = [layer.describe((4,)) for layer in (
      layers.CorrelateMax(32, only_train=True),
      layers.CorrelateFixed(20, only_train=True),
      layers.DecorrelateMin(8, only_train=True),
      layers.DecorrelateAll(only_train=True),
  )]
  assert lines == [
      "CorrMaxK only_train=True num_correlate=32",
      "CorrFix only_train=True k=20",
      "DecorrMin only_train=True k=8 num_to_keep=True",
      "Concretize only_train=True",
  ]
