"""fold: the network with its normalisation in the layers before it."""

import functools

import drawn_weights
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
from diffai_jax.domains import Product
from diffai_jax.networks import convnet, create, describe, fold
from diffai_jax.nn import (
    BatchNorm,
    Conv2D,
    ConvTranspose2D,
    CorrelateMax,
    Flatten,
    Linear,
    ReLU,
    Sequential,
    par_sum,
    skip_cat,
)
from diffai_jax.nn.batch_norm import POPULATION
from diffai_jax.types import Mode, UsageError

SHAPE = (6, 5, 2)
make = functools.partial(
    convnet, 4, (0.4, 0.5), (0.3, 0.2), ((3, 3, 1), (5, 3, 2)), 1, (7,),
    batch_norm=True,
)


def shapes_of(network):
  dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
  return drawn_weights.shapes(network, SHAPE, dtype)


def drawn(network, seed=0):
  """Variables whose every number is random; scales have both signs."""
  rng = np.random.default_rng(seed)
  variables = shapes_of(network)

  def draw(path, leaf):
    size = rng.normal(size=leaf.shape)
    if path[-1].key == "variance":
      size = np.abs(size) * 10.0 ** rng.integers(-3, 3, leaf.shape)
    return np.asarray(size / (3 if leaf.ndim > 1 else 1), leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, variables)


def normalisations(params):
  """How many BatchNorms have weights."""
  paths = traverse_util.flatten_dict(params)
  return sum(path[-1] == "scale" for path in paths)


def assert_equal_networks(network, variables, folded, params):
  """On points, and on all that the bounds of two elements are made of."""
  images = np.random.default_rng(1).uniform(size=(3, *SHAPE))

  @jax.jit
  def both(images, *weights):
    value = Product((
        images, domains.box(images, 0.03), domains.correlated_box(images, 0.02)
    ))
    return [
        each.apply(one, value, Mode.TRAIN)
        for each, one in zip((network, folded), weights, strict=True)
    ]

  before, after = both(images, variables, {"params": params})
  # Leaves: symbols of lifted stages have names that no two runs share.
  before, after = jax.tree.leaves(before), jax.tree.leaves(after)
  for one, other in zip(before, after, strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("changes", [
    {}, {"remat": True}, {"after": {1: [CorrelateMax(5, only_train=True)]}}
], ids=["plain", "remat", "abstract"])
def test_a_folded_network_is_the_same_function(changes):
  network = make(**changes)
  variables = drawn(network)
  folded, params = fold(network, variables)
  assert normalisations(variables["params"]) == 3
  assert normalisations(params) == 0
  assert_equal_networks(network, variables, folded, params)


def test_the_listing_is_that_of_a_network_without_normalisation():
  network, plain = make(), make(batch_norm=False)
  folded, _ = fold(network, drawn(network))
  assert "BatchNorm" in describe(network, SHAPE).lines
  assert describe(folded, SHAPE) == describe(plain, SHAPE)


@pytest.mark.usefixtures("float64")
def test_weights_are_those_of_the_formula():
  """kernel·f and (bias - mean)·f + shift, with f = scale/√(variance + 1e-5)."""
  network = Sequential((Flatten(), Linear(3), BatchNorm()))
  variables = drawn(network)
  kept = jax.tree.map(np.array, variables)
  _, params = fold(network, variables)
  linear, norm = (kept["params"][f"layers_{n}"] for n in (1, 2))
  population = kept[POPULATION]["layers_2"]
  f = norm["scale"] / np.sqrt(population["variance"] + 1e-5)
  (found,) = params.values()
  assert set(found) == {"kernel", "bias"}
  np.testing.assert_allclose(found["kernel"], linear["kernel"] * f, rtol=1e-12)
  np.testing.assert_allclose(
      found["bias"], (linear["bias"] - population["mean"]) * f + norm["bias"],
      rtol=1e-12,
  )
  # What was given stays what it was.
  assert set(variables["params"]) == {"layers_1", "layers_2"}
  jax.tree.map(np.testing.assert_array_equal, variables, kept)


@pytest.mark.parametrize("with_population", [True, False])
@pytest.mark.parametrize("network", [
    make(batch_norm=False), create("ConvMed", 4), create("ResNet-Tiny", 4)
], ids=["convnet", "ConvMed", "ResNet-Tiny"])
def test_what_has_no_normalisation_comes_back(network, with_population):
  """The very same network and weights, as before there was such a thing."""
  params = {"layers_0": {"layers_0": {"kernel": jnp.ones(2)}}}
  variables = {"params": params}
  if with_population:
    variables[POPULATION] = {}
  same, weights = fold(network, variables)
  assert same is network
  assert weights is params


NOT_FOLDED = {
    "ReLU": (Conv2D(3, 3), ReLU(), BatchNorm()),
    "CorrelateMax": (Conv2D(3, 3), CorrelateMax(3), BatchNorm()),
    "ConvTranspose2D": (ConvTranspose2D(3, 2), BatchNorm()),
    "ParSum": (par_sum([Conv2D(3, 1)], [Conv2D(3, 1)]), BatchNorm()),
}


@pytest.mark.parametrize("nested", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("before", NOT_FOLDED)
def test_after_anything_but_an_affine_layer_it_is_refused(before, nested):
  network = Sequential(NOT_FOLDED[before])
  if nested:
    network = Sequential((Sequential((Conv2D(2, 1), ReLU())), network))
  variables = drawn(network)
  with pytest.raises(UsageError, match=f"follows {before};") as caught:
    fold(network, variables)
  assert len(str(caught.value).splitlines()) == 1


def test_as_the_first_layer_it_is_refused():
  network = Sequential((BatchNorm(), Conv2D(3, 3)))
  variables = drawn(network)
  with pytest.raises(UsageError, match="layers_0 comes first;") as caught:
    fold(network, variables)
  assert len(str(caught.value).splitlines()) == 1


def residual(join):
  """Normalised branches, one of them in a join of its own."""
  deeper = join([Conv2D(3, 1), BatchNorm()], [Conv2D(3, 1), BatchNorm()])
  body = [Conv2D(2, 3, 1, 1), BatchNorm(), ReLU(), deeper, ReLU(),
          Conv2D(3, 3, 1, 1), BatchNorm()]
  return Sequential((
      Sequential((Conv2D(2, 3, 1, 1), BatchNorm(), ReLU())),
      Sequential((join(body, [Conv2D(3, 1), BatchNorm()]), ReLU())),
      Sequential((Flatten(), Linear(4))),
  ))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("join", [par_sum, skip_cat])
def test_branches_are_folded_too(join):
  network = residual(join)
  variables = drawn(network)
  folded, params = fold(network, variables)
  assert normalisations(variables["params"]) == 6
  assert normalisations(params) == 0
  assert_equal_networks(network, variables, folded, params)


@pytest.mark.usefixtures("float64")
def test_a_branch_without_normalisation_is_left_alone():
  """The identity, and one whose ReLU nothing normalises."""
  network = Sequential((
      Conv2D(3, 1), BatchNorm(),
      par_sum([Conv2D(3, 3, 1, 1), BatchNorm()], []),
      par_sum([ReLU(), Conv2D(3, 1)], []), Flatten(), Linear(2),
  ))
  variables = drawn(network)
  folded, params = fold(network, variables)
  assert_equal_networks(network, variables, folded, params)


@pytest.mark.parametrize("join", [par_sum, skip_cat])
def test_a_branch_that_cannot_be_folded_is_refused(join):
  network = Sequential((join([Conv2D(3, 3), ReLU(), BatchNorm()],
                             [Conv2D(3, 3)]),))
  variables = drawn(network)
  with pytest.raises(UsageError, match="follows ReLU;"):
    fold(network, variables)


def shared_layer():
  layer = Linear(4)
  return Flatten(), layer, BatchNorm(), ReLU(), Linear(4), layer


def shared_norm():
  norm = BatchNorm()
  return Flatten(), Linear(4), norm, ReLU(), Linear(4), norm


def shared_chain():
  chain = Sequential((Conv2D(2, 3, 1, 1), BatchNorm(), ReLU()))
  return chain, chain


def shared_by_branches():
  layer = Conv2D(2, 1)
  return (par_sum([layer, BatchNorm()], [layer]),)


@pytest.mark.parametrize("layers", [
    shared_layer, shared_norm, shared_chain, shared_by_branches
])
def test_what_is_used_twice_is_refused(layers):
  """One kernel cannot have the normalisation of one place alone."""
  network = Sequential(layers())
  if layers is shared_layer:  # The shapes must allow it.
    network = Sequential((*layers()[:1], Linear(4), *layers()[1:]))
  variables = drawn(network)
  with pytest.raises(UsageError, match="is used 2 times") as caught:
    fold(network, variables)
  assert len(str(caught.value).splitlines()) == 1


def test_a_shared_layer_that_nothing_normalises_is_no_hindrance(float64):
  layer = ReLU()
  network = Sequential((
      Conv2D(3, 1), BatchNorm(), layer, Conv2D(2, 1), BatchNorm(), layer
  ))
  variables = drawn(network)
  assert_equal_networks(network, variables, *fold(network, variables))


class Own(Sequential):
  """A chain that does something of its own."""

  def __call__(self, x, mode=Mode.CONCRETE):
    return super().__call__(super().__call__(x, mode), mode)


@pytest.mark.parametrize("nested", [False, True])
def test_modules_of_ones_own_that_normalise_inside_are_refused(nested):
  """What they do with their layers is not known."""
  network = Own((Conv2D(2, 1), BatchNorm()))
  if nested:
    network = Sequential((ReLU(), network))
  variables = drawn(network)
  with pytest.raises(UsageError, match="Own.* normalises inside"):
    fold(network, variables)


def test_a_normalised_conv_small_folds_into_conv_small():
  """Its folded weights are the plain network's, and so are its answers."""
  normalised = create("ConvSmall", 10, batch_norm=True)
  shape = 28, 28, 1
  image = np.random.default_rng(1).uniform(size=(3, *shape)).astype(np.float32)
  variables = drawn_weights.variables(normalised, shape, 2)
  assert normalisations(variables["params"]) == 3
  network, params = fold(normalised, variables)
  plain = create("ConvSmall", 10, batch_norm=False)
  assert (
      jax.tree.map(np.shape, params)
      == jax.tree.map(np.shape, drawn_weights.shapes(plain, shape)["params"])
  )
  found, expected = jax.jit(lambda params, variables, image: (
      plain.apply({"params": params}, image), normalised.apply(variables, image)
  ))(params, variables, image)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_is_refused_where_it_has_no_place():
  with pytest.raises(UsageError, match="ResNet-18 has no place for it"):
    create("ResNet-18", 10, batch_norm=True)
  create("ResNet-18", 10, batch_norm=False)
  plain = create("CNN7", 10, batch_norm=False)
  assert not normalisations(drawn_weights.shapes(plain, (8, 8, 1))["params"])
