"""BatchNorm: one affine map of points and bounds, by a batch's statistics."""

import functools

import drawn_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains
from diffai_jax.domains import Dense, Diagonal, HybridZonotope, Product
from diffai_jax.nn import BatchNorm, Conv2D, Flatten, Linear, ReLU, Sequential
from diffai_jax.nn.batch_norm import (
    BATCH,
    POPULATION,
    batch_statistics,
    moving_mean,
)
from diffai_jax.types import Mode, UsageError

TINY = 1e-5
CHANNELS = 6


def normalised(x, scale, bias, mean, variance):
  """The definition, in NumPy's float64."""
  x, scale, bias, mean, variance = (
      np.asarray(a, np.float64) for a in (x, scale, bias, mean, variance)
  )
  return scale * (x - mean) / np.sqrt(variance + TINY) + bias


def moments(x):
  """Mean and variance of each channel of the last axis, in NumPy."""
  flat = np.asarray(x).reshape(-1, np.shape(x)[-1])
  return flat.mean(axis=0), flat.var(axis=0)


def weights(rng, dtype=np.float64):
  """Scales of both signs and any size, and biases."""
  scale = rng.normal(size=CHANNELS) * 10.0 ** rng.integers(-2, 3, CHANNELS)
  return {"scale": np.asarray(scale, dtype),
          "bias": np.asarray(rng.normal(size=CHANNELS), dtype)}


def statistics(rng, dtype=np.float64):
  """Means and variances of wildly different size."""
  variance = rng.permutation(np.geomspace(1e-8, 1e8, CHANNELS))
  mean = np.sqrt(variance) * rng.normal(size=CHANNELS) * 3
  return {"mean": np.asarray(mean, dtype),
          "variance": np.asarray(variance, dtype)}


class Chain(Sequential):
  """What the statistics are tested with: two of them, after one another."""

  layers: tuple = (
      Conv2D(3, 3), BatchNorm(), ReLU(), Flatten(), Linear(4), BatchNorm()
  )


def chain(rng, image_shape=(4, 5, 2)):
  """A Chain, and variables whose every number is random."""
  network = Chain()
  shapes = drawn_weights.shapes(network, image_shape)
  return network, jax.tree.map(
      lambda w: rng.uniform(0.5, 2, w.shape) * rng.choice([-1, 1]),
      shapes["params"],
  ), jax.tree_util.tree_map_with_path(
      lambda path, w: np.full(w.shape, float(path[-1].key == "variance")),
      shapes[POPULATION],
  )


def test_statistics_are_those_of_the_whole_batch(float64):
  """Of the second layer with the first one's statistics of the same batch."""
  rng = np.random.default_rng(0)
  network, params, population = chain(rng)
  # Far from 0: what E[x²] - E[x]² would get wrong.
  images = 1e4 + np.arange(2) + rng.normal(size=(7, 4, 5, 2))
  variables = {"params": params, POPULATION: population}

  @jax.jit
  def run(variables, images):
    batch = batch_statistics(network, variables, images)
    return batch, network.apply(variables | {BATCH: batch}, images, Mode.TRAIN)

  found, output = run(variables, images)
  conv, first, linear, second = (
      params[f"layers_{number}"] for number in (0, 1, 4, 5)
  )
  x = sum(
      images[:, i : i + 2, j : j + 3] @ np.asarray(conv["kernel"])[i, j]
      for i in range(3) for j in range(3)
  ) + np.asarray(conv["bias"])
  expected = {"layers_1": moments(x)}
  x = normalised(x, first["scale"], first["bias"], *moments(x))
  x = np.maximum(x, 0).reshape(7, -1) @ np.asarray(linear["kernel"])
  expected["layers_5"] = moments(x + np.asarray(linear["bias"]))
  assert set(found) == set(expected)
  for name, (mean, variance) in expected.items():
    np.testing.assert_allclose(found[name]["mean"], mean, rtol=1e-9)
    np.testing.assert_allclose(found[name]["variance"], variance, rtol=1e-6)

  # What a run with them gives is normal: shifted and scaled by the weights.
  mean, variance = moments(output)
  np.testing.assert_allclose(mean, second["bias"], rtol=1e-6)
  np.testing.assert_allclose(
      variance, np.square(second["scale"]), rtol=1e-2
  )


def test_without_normalisation_there_are_no_statistics():
  network = Sequential((Linear(3), ReLU()))
  variables = drawn_weights.variables(network, (2,))
  assert batch_statistics(network, variables, jnp.ones((4, 2))) == {}
  assert moving_mean({}, {}) == {}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("known", [True, False], ids=["batch", "population"])
def test_the_populations_statistics_are_for_runs_without_a_batchs(known, mode):
  rng = np.random.default_rng(1)
  params, population, batch = weights(rng), statistics(rng), statistics(rng)
  variables = {"params": params, POPULATION: population}
  if known:
    variables[BATCH] = batch
  x = rng.normal(size=(5, CHANNELS))
  given = jnp.asarray(x) if mode is Mode.CONCRETE else domains.box(x, 0.1)
  found = BatchNorm().apply(variables, given, mode)
  found = found if mode is Mode.CONCRETE else found.center
  expected = normalised(x, **params, **(batch if known else population))
  np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_an_initialisation_needs_no_batch():
  """Statistics begin at 0 and 1, the map as the identity but for 1e-5."""
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4)))
  output, variables = BatchNorm().init_with_output(jax.random.key(0), x)
  np.testing.assert_allclose(output, x, rtol=1e-4)
  assert set(variables) == {"params", POPULATION}
  for name, value in (("mean", 0), ("variance", 1)):
    np.testing.assert_array_equal(
        variables[POPULATION][name], np.full(4, value)
    )


def test_points_and_elements_have_the_same_map(float64):
  """c ↦ f·(c - mean) + bias, r ↦ |f|·r, g ↦ f·g; a Product's parts likewise."""
  rng = np.random.default_rng(3)
  params, population = weights(rng), statistics(rng)
  shape = (2, 3, 2, CHANNELS)
  center, point, diagonal = rng.normal(size=(3, *shape))
  radius = np.abs(rng.normal(size=shape))
  generators = rng.normal(size=(2, 4, 3, 2, CHANNELS))
  box = domains.box(jnp.asarray(center), jnp.asarray(radius))
  blocks = {"a": Dense(jnp.asarray(generators)),
            "b": Diagonal(jnp.asarray(diagonal))}
  hybrid = HybridZonotope(
      jnp.asarray(center), jnp.asarray(radius), blocks, "smooth", True
  )
  apply = functools.partial(
      BatchNorm().apply, {"params": params, POPULATION: population}
  )
  product = Product((jnp.asarray(point), Product((box, hybrid))))
  for found, inner in (
      ((apply(jnp.asarray(point), Mode.CONCRETE)),
       (apply(box, Mode.TRAIN), apply(hybrid, Mode.CERTIFY))),
      (lambda x: (x[0], x[1].parts))(apply(product, Mode.TRAIN)),
  ):
    of_box, of_hybrid = inner
    f = np.asarray(params["scale"]) / np.sqrt(population["variance"] + TINY)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    near = functools.partial(close, atol=1e-9)
    near(found, normalised(point, **params, **population))
    for element in (of_box, of_hybrid):
      near(element.center, normalised(center, **params, **population))
      near(element.uncorrelated, np.abs(f) * radius)
      assert np.all(element.uncorrelated >= np.abs(f) * radius)
    assert not of_box.correlated
    close(of_hybrid.correlated["a"].coefficients, f * generators)
    close(of_hybrid.correlated["b"].coefficients, f * diagonal)
    assert isinstance(of_hybrid.correlated["b"], Diagonal)
    assert (of_hybrid.relu, of_hybrid.zonotope) == ("smooth", True)


def test_the_gradient_flows_through_the_statistics(float64):
  """Of points and bounds, against finite differences in every weight."""
  rng = np.random.default_rng(4)
  network, params, population = chain(rng, (3, 3, 1))
  images = rng.uniform(size=(5, 3, 3, 1))
  value = Product((images, domains.correlated_box(images, 0.05)))
  leaves, tree = jax.tree.flatten(params)
  sizes = np.cumsum([leaf.size for leaf in leaves])
  directions = rng.normal(size=(2, 5, 4))

  def loss(flat, held=None):
    parts = jnp.split(flat, sizes[:-1])
    params = jax.tree.unflatten(tree, [
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves)
    ])
    variables = {"params": params, POPULATION: population}
    batch = batch_statistics(network, variables, images)
    batch = batch if held is None else held
    points, element = network.apply(
        variables | {BATCH: batch}, value, Mode.TRAIN
    )
    total = jnp.sum(directions[0] * points)
    return total + jnp.sum(directions[1] * domains.radius(element)), batch

  flat = np.concatenate([leaf.ravel() for leaf in leaves])

  @jax.jit
  def slopes_at(flat):
    gradient, batch = jax.grad(loss, has_aux=True)(flat)
    # With statistics that stand still it is another.
    return gradient, jax.grad(loss, has_aux=True)(flat, batch)[0]

  gradient, frozen = slopes_at(flat)
  step = 1e-6
  changes = step * np.eye(flat.size)
  shifted = jax.jit(jax.vmap(lambda change: loss(flat + change)[0]))
  up, down = np.split(shifted(np.concatenate([changes, -changes])), 2)
  slopes = (up - down) / (2 * step)
  np.testing.assert_allclose(gradient, slopes, rtol=1e-5, atol=1e-6)
  assert np.max(np.abs(frozen - slopes)) > 0.1


def test_the_population_is_a_moving_mean(float64):
  """Nine tenths of the old, a tenth of the new, over three batches."""
  rng = np.random.default_rng(5)
  first, *batches = ({"a": statistics(rng), "b": {"c": statistics(rng)}}
                     for _ in range(4))
  found = first
  for batch in batches:
    found = moving_mean(found, batch)
  expected = jax.tree.map(
      lambda old, *new: 0.729 * old + 0.081 * new[0] + 0.09 * new[1]
      + 0.1 * new[2],
      first, *batches,
  )
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-12), found, expected
  )


def runs(variables):
  """The same concrete run as several programs, each compiled once."""
  apply = BatchNorm().apply
  baked = jax.jit(lambda x: apply(variables, x))
  given = jax.jit(apply)
  one = jax.jit(lambda x: jax.vmap(lambda e: apply(variables, e[None])[0])(x))
  return (
      baked,
      functools.partial(given, variables),
      one,
      functools.partial(apply, variables),  # One operation after the other.
      jax.jit(lambda x: apply(variables, 2 * x - x)),
  )


@pytest.mark.parametrize("trained", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_point_leaves_the_bounds(float64, dtype, trained):
  """Ends of boxes and points alone, where only rounding can be to blame."""
  rng = np.random.default_rng(6)
  for number in range(3):
    params, population = weights(rng, trained), statistics(rng, trained)
    variables = {"params": params, POPULATION: population}
    mean, spread = population["mean"], np.sqrt(population["variance"])
    x = mean + spread * rng.normal(size=(400, CHANNELS)) * 3
    width = spread * np.abs(rng.normal(size=x.shape))
    width = width * (0.0, 1e-6, 1.0)[number]
    low, high = (np.asarray(v, dtype) for v in (x - width, x + width))
    inside = np.clip(
        low + (high - low) * rng.uniform(size=x.shape).astype(dtype), low, high
    )
    ends_and_inside = np.concatenate([low, high, inside])
    points = [
        np.asarray(run(ends_and_inside)).reshape(3, *low.shape)
        for run in runs(variables)
    ]
    element = domains.from_bounds(low, high)
    bound = jax.jit(lambda element: BatchNorm().apply(
        variables, element, Mode.CERTIFY))
    outputs = bound(element), BatchNorm().apply(variables, element, Mode.TRAIN)
    exact = np.stack([
        normalised(end, **params, **population) for end in (low, high)
    ])
    f = np.asarray(params["scale"], np.float64) / np.sqrt(
        np.asarray(population["variance"], np.float64) + TINY)
    size = np.abs(f) * (np.abs(x) + width + np.abs(mean))
    size += np.abs(params["bias"])
    # Computed in the wider type, with the allowance of the narrower one.
    wider = np.promote_types(dtype, trained)
    coarser = max(np.finfo(dtype).eps, np.finfo(trained).eps)
    for output in outputs:
      lower = np.asarray(domains.lower(output))
      upper = np.asarray(domains.upper(output))
      assert lower.dtype == upper.dtype == wider
      assert np.all(lower <= exact.min(axis=0))
      assert np.all(exact.max(axis=0) <= upper)
      for found in points:
        assert np.all(lower <= found) and np.all(found <= upper)
      # As wide as rounding asks for, and no wider.
      excess = np.asarray(upper - lower) - np.ptp(exact, axis=0)
      assert np.all(excess <= 100 * coarser * size)


def test_points_of_zonotopes_stay_inside_at_their_symbols(float64):
  """At the same values of the noise symbols, not only within the bounds."""
  rng = np.random.default_rng(7)
  params, population = weights(rng), statistics(rng)
  center, radius = rng.normal(size=(2, 3, CHANNELS))
  generators = rng.normal(size=(3, 5, CHANNELS))
  element = HybridZonotope(
      jnp.asarray(center), jnp.asarray(np.abs(radius)),
      {"a": Dense(jnp.asarray(generators))},
  )
  apply = functools.partial(
      BatchNorm().apply, {"params": params, POPULATION: population}
  )
  image = apply(element, Mode.TRAIN)
  noise = rng.uniform(-1, 1, size=(50, 3, 5))
  own = np.sign(rng.normal(size=(50, *center.shape)))
  points = (center + np.einsum("nbm,bmc->nbc", noise, generators)
            + own * np.abs(radius))
  there = np.asarray(image.center) + np.einsum(
      "nbm,bmc->nbc", noise, image.correlated["a"].coefficients
  )
  found = np.asarray(apply(jnp.asarray(points.reshape(-1, CHANNELS))))
  distance = np.abs(found.reshape(there.shape) - there)
  assert np.all(distance <= np.asarray(image.uncorrelated) * (1 + 1e-12))


@pytest.mark.parametrize("value", [
    domains.box(jnp.ones((2, 3)), 0.1),
    Product((jnp.ones((2, 3)), domains.box(jnp.ones((2, 3)), 0.1))),
], ids=["element", "product"])
def test_elements_have_no_statistics(value):
  variables = drawn_weights.variables(BatchNorm(), (3,))
  with pytest.raises(UsageError, match="statistics of a batch") as caught:
    BatchNorm().apply(variables, value, Mode.TRAIN, mutable=[BATCH])
  assert type(value).__name__ in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


def test_describe():
  assert BatchNorm().describe((3,)) == "BatchNorm"
