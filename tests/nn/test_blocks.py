"""Chains, sums and concatenations of layers; chains that are computed anew."""

import dataclasses
import functools

import drawn_weights
from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Dense, HybridZonotope, Product
from diffai_jax.kernels import precision
from diffai_jax.domains.generators import to_dense
from diffai_jax.nn import (
    BatchNorm,
    Branch,
    Conv2D,
    CorrelateRandom,
    DecorrelateMin,
    DeepLoss,
    Dropout,
    Flatten,
    Linear,
    Normalize,
    ParSum,
    ReLU,
    Sequential,
    SkipCat,
    deep_loss,
    dropout,
    observation,
    par_sum,
    skip_cat,
)
from diffai_jax.nn.batch_norm import BATCH, POPULATION, batch_statistics
from diffai_jax.schedules import Lin
from diffai_jax.types import Mode, UsageError

JOINS = {par_sum: ParSum, skip_cat: SkipCat}


class Scale(nn.Module):
  """by·x, without any weights."""

  by: float

  def __call__(self, x, mode=Mode.CONCRETE):
    return transformers.scale_shift(x, self.by, 0.0)


def bounds(element):
  return np.asarray(domains.lower(element)), np.asarray(domains.upper(element))


def random_hybrid(rng, shape=(3, 4)):
  """An element with uncorrelated error and five dense symbols."""
  return HybridZonotope(
      rng.normal(size=shape), np.abs(rng.normal(size=shape)),
      {"a": Dense(rng.normal(size=(shape[0], 5, *shape[1:])))},
  )


def test_flatten_keeps_the_order():
  images = np.arange(24.0, dtype=np.float32).reshape(2, 2, 3, 2)
  np.testing.assert_array_equal(
      Flatten().apply({}, jnp.asarray(images)), images.reshape(2, 12)
  )
  box = Flatten().apply({}, domains.box(images, images + 1), Mode.TRAIN)
  np.testing.assert_array_equal(box.center, images.reshape(2, 12))
  np.testing.assert_array_equal(box.uncorrelated, images.reshape(2, 12) + 1)


def test_a_chain_runs_its_layers_in_their_order():
  """More than ten of them: the tenth does not come before the second."""
  layers = [Sequential((Linear(5), ReLU()))]
  layers += [Scale(1.0)] * 9 + [Sequential((Linear(3),)), Linear(2)]
  network = Sequential(tuple(layers))
  x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
  params = drawn_weights.variables(network, (3,))["params"]
  assert set(params) == {"layers_0", "layers_10", "layers_11"}
  expected = x
  for weights in (params["layers_0"]["layers_0"],
                  params["layers_10"]["layers_0"], params["layers_11"]):
    expected = expected @ weights["kernel"] + weights["bias"]
    if weights is params["layers_0"]["layers_0"]:
      expected = np.maximum(expected, 0)
  np.testing.assert_allclose(
      jax.jit(network.apply)({"params": params}, x), expected, rtol=1e-5,
      atol=1e-6,
  )


@pytest.mark.parametrize("value", [
    jnp.ones((2, 3)), domains.box(jnp.ones((2, 3)), 0.5)
], ids=["array", "element"])
def test_no_layers_are_the_identity(value):
  assert Sequential(()).apply({}, value, Mode.TRAIN) is value
  assert Branch((), label="any").apply({}, value, Mode.TRAIN) is value


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("join", JOINS)
def test_joins_of_arrays_are_numpys(join):
  """first(x) + second(x), or their channels in this order; images."""
  network = join([Conv2D(3, 1)], [Conv2D(2, 1), ReLU(), Conv2D(3, 1), ReLU()])
  assert type(network) is JOINS[join]
  x = np.random.default_rng(1).normal(size=(2, 4, 3, 2))
  params = drawn_weights.variables(network, x.shape[1:], dtype=np.float64)
  params = params["params"]

  def dense(x, weights):
    return x @ np.asarray(weights["kernel"])[0, 0] + np.asarray(weights["bias"])

  first, second = params["first"], params["second"]
  one = dense(x, first["layers_0"])
  other = np.maximum(dense(x, second["layers_0"]), 0)
  other = np.maximum(dense(other, second["layers_2"]), 0)
  expected = (
      one + other if join is par_sum else np.concatenate([one, other], axis=-1)
  )
  np.testing.assert_allclose(
      jax.jit(network.apply)({"params": params}, x), expected, rtol=1e-12
  )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("join", JOINS)
def test_joins_of_elements_are_the_plain_transformers(join):
  """Part by part of a Product, too."""
  rng = np.random.default_rng(2)
  network = join([Linear(3)], [Linear(4), ReLU(), Linear(3)])
  element = random_hybrid(rng)
  product = Product((element.center, element))
  params = drawn_weights.variables(network, (4,), dtype=np.float64)["params"]

  def dense(x, weights):
    return transformers.dense(x, weights["kernel"], weights["bias"])

  def expected(x):
    one = dense(x, params["first"]["layers_0"])
    other = dense(x, params["second"]["layers_0"])
    other = transformers.relu(other, symbol="of the branch")
    other = dense(other, params["second"]["layers_2"])
    if join is par_sum:
      return transformers.add(one, other)
    return transformers.concat([one, other], -1)

  @jax.jit
  def both(value):
    return network.apply({"params": params}, value, Mode.TRAIN), expected(value)

  for value in (element, product):
    found, wanted = both(value)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-12), found, wanted
    )


@pytest.mark.parametrize("join", JOINS)
def test_an_identity_branch_passes_its_input_on(join):
  x = jnp.asarray([[1.0, -2.0]])
  element = domains.correlated_box(x, 0.5)
  wanted = {
      par_sum: ([[3.0, -6.0]], [[1.5, 1.5]]),
      skip_cat: ([[1.0, -2.0, 2.0, -4.0]], [[0.5, 0.5, 1.0, 1.0]]),
  }[join]
  network = join([], [Scale(2.0)])
  assert not jax.tree.leaves(network.init(jax.random.key(0), x))
  np.testing.assert_array_equal(network.apply({}, x), wanted[0])
  image = network.apply({}, element, Mode.TRAIN)
  np.testing.assert_array_equal(image.center, wanted[0])
  np.testing.assert_allclose(domains.radius(image), wanted[1], rtol=1e-5)


def test_what_branches_share_cancels():
  """x - x is 0 if x has symbols, at once or after a concatenation."""
  center = jnp.asarray([[1.0, -2.0]])
  correlated = domains.correlated_box(center, 0.5)
  box = domains.box(center, 0.5)
  difference = par_sum([Scale(3.0)], [Scale(-3.0)])
  minus = {"kernel": jnp.asarray([[3.0, 0], [0, 3], [-3, 0], [0, -3]]),
           "bias": jnp.zeros(2)}
  both = Sequential((skip_cat([], []), Linear(2)))
  for layers, params in (
      ((difference,), {}), ((both,), {"layers_0": {"layers_1": minus}})
  ):
    wrapped = tuple(Sequential((layer,)) for layer in layers)
    network = Sequential(wrapped if layers[0] is difference else layers)
    apply = functools.partial(network.apply, {"params": params})
    np.testing.assert_array_equal(apply(center), 0)
    assert np.max(domains.radius(apply(correlated, Mode.TRAIN))) < 1e-4
    np.testing.assert_allclose(
        domains.radius(apply(box, Mode.TRAIN)), 3.0, rtol=1e-5
    )


@pytest.mark.parametrize("shared", [False, True])
def test_fresh_errors_of_branches_do_not_cancel(shared):
  """relu(x) - relu(-x) over [-1, 1] is [-1, 1], also of one ReLU twice."""
  x = domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1)))
  x = dataclasses.replace(x, zonotope=True)
  relu = Sequential((ReLU(),))
  other = relu if shared else Sequential((ReLU(),))
  join = ParSum(
      Branch((relu,)), Branch((Scale(-1.0), other, Scale(-1.0)))
  )
  for network in (join, Sequential((Sequential((join,)),))):
    (low,), (high,) = bounds(network.apply({}, x, Mode.TRAIN))
    assert low[0] <= -1 and 1 <= high[0]
    np.testing.assert_allclose([low[0], high[0]], [-1, 1], atol=1e-5)


def test_describe():
  x = jnp.ones((1, 2))
  for join, lines in (
      (par_sum, ("ParNet1", "ParNet2", "ParSum")),
      (skip_cat, ("SkipNet1", "SkipNet2", "SkipCat dim=1")),
  ):
    network = join([], [])
    found = network.first.label, network.second.label, network.describe((2,))
    assert found == lines


def everything(remat=False):
  """Joins, abstract layers that draw and that do not, dropout, deep losses."""
  body = [Linear(3), ReLU(), DeepLoss(0.1), Linear(3)]
  return Sequential((
      Sequential((Normalize((0.4,) * 6, (0.3,) * 6),)),
      Sequential((par_sum([Linear(3)], body), ReLU(), CorrelateRandom(2))),
      Sequential((skip_cat([], [ReLU(), Linear(2)]), DecorrelateMin(4),
                  DeepLoss(Lin(0, 0.4, 4), only_train=True), Dropout(0.4))),
      Linear(3),
  ), remat)


@pytest.mark.parametrize("rule", ["box", "switch", "smooth", "deepz"])
def test_no_point_leaves_the_bounds(rule):
  """Ends and random points of the input, in float32."""
  rng = np.random.default_rng(3)
  network = everything()
  low = rng.uniform(size=(2, 6)).astype(np.float32)
  high = low + np.float32(0.2)
  params = jax.tree.map(
      lambda w: rng.normal(size=w.shape).astype(w.dtype),
      drawn_weights.shapes(network, (6,)),
  )
  share = rng.uniform(size=(200, 2, 6)).astype(np.float32)
  share = np.where(rng.random((200, 1, 1)) < 0.5, share, np.round(share))
  points = np.clip(low + (high - low) * share, low, high)

  @jax.jit
  def run(points, low, high):
    element = dataclasses.replace(
        transformers.correlate_all(domains.from_bounds(low, high), "input"),
        relu=rule, zonotope=rule == "deepz",
    )
    image = network.apply(
        params, element, Mode.TRAIN, rngs={"abstract": jax.random.key(1)}
    )
    return (network.apply(params, points), domains.lower(image),
            domains.upper(image))

  found, lower, upper = map(np.asarray, run(points.reshape(-1, 6), low, high))
  found = found.reshape(200, 2, 3)
  assert np.all(lower <= found) and np.all(found <= upper)
  assert np.all(np.ptp(found, axis=0) > 0.02 * (upper - lower))


def run(remat):
  """Weights, gradient, loss, what it is made of, of a training step."""
  images = np.random.default_rng(4).uniform(size=(40, 6))
  network = everything(remat)
  params = jax.jit(network.init)(jax.random.key(0), images)["params"]
  value = Product((images, domains.correlated_box(images, 0.05)))
  state = dropout.training_state(
      jnp.asarray(3.0), jax.random.split(jax.random.key(5), 40)
  )

  def loss(params):
    output, sown = network.apply(
        {"params": params} | state, value, Mode.TRAIN,
        rngs={"abstract": jax.random.key(1)},
        mutable=[deep_loss.COLLECTION, observation.COLLECTION],
    )
    points, radius = output = output[0], domains.radius(output[1])
    losses = jnp.sum(jnp.sin(points + radius), axis=1)
    losses = deep_loss.mix_in(losses, sown, 3.0)
    seen = [
        [domains.radius(element) for call in observation.observed(sown, name)
         for element in call]
        for name in ("input", "before ReLU")
    ]
    total = jnp.mean(losses) + sum(jnp.sqrt(jnp.mean(r)) for r in seen[1])
    return total, (output, sown[deep_loss.COLLECTION], seen)

  return params, jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_computing_anew_changes_nothing(float64):
  """The same weights, outputs, terms, observations and gradients."""
  before, anew = run(False), run(True)
  assert jax.tree.structure(anew) == jax.tree.structure(before)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
      anew, before,
  )
  # Everything took part.
  _, ((_, (_, terms, seen)), gradient) = anew
  assert all(np.max(np.abs(g)) > 1e-6 for g in jax.tree.leaves(gradient))
  terms = traverse_util.flatten_dict(terms)
  assert set(terms) == {
      ("layers_1", "layers_0", "second", "layers_2", "terms"),
      ("layers_2", "layers_2", "terms"),
  }
  assert all(len(calls) == 1 for calls in terms.values())
  assert [len(radii) for radii in seen] == [1, 3]


@pytest.mark.parametrize("remat", [False, True])
def test_a_chain_has_dropout(remat):
  network = Sequential((Sequential((Dropout(0.5),)),), remat)
  state = dropout.training_state(0.0, jax.random.split(jax.random.key(0), 64))
  found = network.apply(state, jnp.ones((64, 50)), Mode.TRAIN)
  assert np.mean(found == 0) == pytest.approx(0.5, abs=0.05)


def test_statistics_survive_computing_anew(float64):
  """Of normalised chains and branches, and what is computed with them."""

  def stage():
    join = par_sum([Linear(4), BatchNorm()], [])
    return Sequential((Linear(4), BatchNorm(), ReLU(), join))

  x = jnp.asarray(np.random.default_rng(6).normal(size=(6, 3)))

  def run(remat):
    network = Sequential((stage(), Sequential((Linear(4),)), stage()), remat)
    variables = drawn_weights.variables(network, (3,), dtype=np.float64)

    def loss(params):
      known = variables | {"params": params}
      batch = batch_statistics(network, known, x)
      output = network.apply(
          known | {BATCH: batch}, domains.box(x, 0.1), Mode.TRAIN
      )
      return jnp.sum(jnp.sin(domains.upper(output))), (batch, output)

    found = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return variables, found(variables["params"])

  before, anew = run(False), run(True)
  assert jax.tree.structure(anew) == jax.tree.structure(before)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
      anew, before,
  )
  population, batch = anew[0][POPULATION], anew[1][0][1][0]
  assert jax.tree.structure(population) == jax.tree.structure(batch)
  assert len(jax.tree.leaves(batch)) == 8


@pytest.mark.parametrize("element", [False, True], ids=["points", "element"])
def test_computing_anew_saves_memory(element):
  """Of twelve hidden layers a gradient keeps what enters each stage.

  On the CPU a compiler's pass makes one of both computations again, unless
  it is told not to.
  """
  x = jnp.ones((4096, 16))
  sizes = {}
  for remat in (False, True):
    stages = [Sequential((Linear(16), ReLU()) * 2) for _ in range(6)]
    network = Sequential(tuple(stages), remat)
    params = drawn_weights.variables(network, (16,))

    def loss(params):
      value = domains.box(x, 0.1) if element else x
      output = network.apply(params, value, Mode.TRAIN)
      return jnp.sum(domains.upper(output) if element else output)

    with precision.for_losses(True):  # As a training step has it.
      residuals = jax.tree.leaves(jax.eval_shape(
          lambda params: jax.vjp(loss, params)[1], params
      ))
      compiled = jax.jit(jax.grad(loss)).lower(params).compile(
          {"xla_disable_hlo_passes": "cse_barrier_expander"}
      )
    sizes[remat] = (
        # Of the examples; copies of the weights are small.
        sum(
            leaf.size * leaf.dtype.itemsize
            for leaf in residuals if leaf.size >= x.size
        ) / x.nbytes,
        compiled.memory_analysis().temp_size_in_bytes / x.nbytes,
    )
  # A box has two numbers a variable.
  assert sizes[True][0] < 7 * (2 if element else 1) < sizes[False][0] / 3
  assert sizes[True][1] < 0.6 * sizes[False][1]


def test_deep_losses_of_a_long_stage_keep_their_order():
  """layers_10 comes after layers_2 also where the stage is computed anew."""
  layers = [ReLU() for _ in range(11)]
  layers[2], layers[5], layers[10] = DeepLoss(0.25), Scale(3.0), DeepLoss(0.5)
  x = domains.box(jnp.asarray([[-1.0, 2.0]]), 0.5)
  losses = []
  for remat in (False, True):
    network = Sequential((Sequential(tuple(layers)),), remat)

    @jax.jit
    def loss(x):
      _, sown = network.apply({}, x, Mode.TRAIN, mutable=[deep_loss.COLLECTION])
      return deep_loss.mix_in(jnp.ones(1), sown, 0.0)[0]

    losses.append(float(loss(x)))
  assert losses[1] == pytest.approx(losses[0])


def test_remat_is_refused_inside_of_a_network():
  network = Sequential((Sequential((ReLU(),), True),))
  with pytest.raises(UsageError, match="layers_0 has remat=True"):
    network.apply({}, jnp.ones((1, 2)))


@pytest.mark.parametrize("remat", [False, True])
def test_a_stage_that_runs_twice_makes_different_symbols(remat):
  """relu(x) - relu(-x) over [-1, 1] by one stage, called twice in a run."""
  x = domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1)))
  stage = Sequential((ReLU(),))
  network = Sequential((Sequential((ReLU(),)), stage, stage), remat)
  x = dataclasses.replace(x, zonotope=True, relu="deepz")
  image = jax.eval_shape(lambda x: network.apply({}, x, Mode.TRAIN), x)
  names = [name for name in image.correlated if not name.startswith("input")]
  assert len(names) == 3


@pytest.mark.parametrize("remat", [False, True])
def test_two_runs_make_different_symbols(remat):
  """relu(x) - relu(-x) over [-1, 1], each from a run of its own."""
  x = domains.correlated_box(jnp.zeros((1, 1)), jnp.ones((1, 1)))
  x = dataclasses.replace(x, zonotope=True)
  one, two = (
      Sequential((Sequential((Scale(by), ReLU())),), remat).apply(
          {}, x, Mode.TRAIN
      ) for by in (1.0, -1.0)
  )
  (low,), (high,) = bounds(transformers.subtract(one, two))
  assert low[0] <= -1 and 1 <= high[0]


@pytest.mark.parametrize("remat", [False, True])
def test_without_random_keys_a_layer_draws_the_same_each_time(remat):
  """As certification does: two runs bound alike."""
  network = Sequential((Sequential((CorrelateRandom(3),)),), remat)
  x = domains.box(jnp.ones((1, 200)), 0.5)

  @jax.jit
  def coefficients(x):
    image = network.apply({}, x, Mode.CERTIFY)
    return to_dense(*image.correlated.values()).coefficients

  one, other = coefficients(x), jax.jit(lambda x: coefficients(x))(x)
  np.testing.assert_array_equal(one, other)
