"""Regularisers of fast interval training against Shi et al. 2021 in NumPy."""

import drawn_weights
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import layers

from diffai_jax import domains, transformers
from diffai_jax.losses import regularizers
from diffai_jax.domains import Product
from diffai_jax.networks import create
from diffai_jax.nn import Conv2D, Linear, Normalize, ReLU
from diffai_jax.nn.observation import COLLECTION, observed
from diffai_jax.types import Mode

pytestmark = pytest.mark.usefixtures("float64")


def draw(rng, shape, spread=1.0, shift=0.0):
  center = rng.normal(size=shape) + shift
  radius = spread * np.abs(rng.normal(size=shape)) * (rng.random(shape) < 0.9)
  return domains.box(center, radius)


tightness = jax.jit(regularizers.tightness)
relu_balance = jax.jit(regularizers.relu_balance)


def bounds(element):
  center, radius = np.asarray(element.center), np.asarray(element.uncorrelated)
  return center - radius, center + radius


def numpy_tightness(first, inputs, tau):
  widths = [np.mean((u - l) / 2) for l, u in map(bounds, [first, *inputs])]
  return np.mean([max(0, tau - widths[0] / w) for w in widths[1:]]) / tau


def numpy_balance(inputs, tau):
  total = 0.0
  for l, u in map(bounds, inputs):
    center = (l + u) / 2
    active, inactive = l > 0, u < 0
    if not active.any() or not inactive.any():
      ratios = [1, 1]  # There is none; nothing is added.
    else:
      distance = (center - center.mean()) ** 2
      alpha = center[active].sum() / -center[inactive].sum()
      beta = distance[active].sum() / distance[inactive].sum()
      ratios = [min(alpha, 1 / alpha), min(beta, 1 / beta)]
    total += sum(max(0, tau - ratio) for ratio in ratios)
  return total / len(inputs) / tau


@pytest.mark.parametrize("tau", [0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_formulas(seed, tau):
  rng = np.random.default_rng(seed)
  first = draw(rng, (4, 6, 6, 2), 0.1)
  inputs = [draw(rng, (4, 30), *s)
            for s in ((0.05, 0.5), (0.3, -0.8), (2.0, 0.3), (0.01, 0))]
  np.testing.assert_allclose(
      tightness(first, inputs, tau),
      numpy_tightness(first, inputs, tau), rtol=1e-9,
  )
  expected = numpy_balance(inputs, tau)
  assert expected > 0
  np.testing.assert_allclose(
      relu_balance(inputs, tau), expected, rtol=1e-9
  )


@pytest.mark.parametrize("center", [2.0, -2.0, 0.0])
def test_one_sided_layers_cost_nothing(center):
  """Without active or without inactive neurons there is no ratio."""
  element = domains.box(
      np.full((2, 5), center) + np.arange(5) / 100, np.full((2, 5), 0.5)
  )
  assert float(relu_balance([element])) == 0


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_a_one_sided_layer_adds_nothing_to_the_others(shift):
  """It only counts among the m layers of the mean."""
  rng = np.random.default_rng(7)
  balanced = draw(rng, (4, 30), 0.1, -0.5)
  one_sided = domains.box(
      rng.uniform(-1, 1, (4, 30)) + shift, np.full((4, 30), 0.1)
  )
  alone = float(relu_balance([balanced], 0.9))
  assert alone > 0
  for inputs in ([balanced, one_sided], [one_sided, balanced]):
    np.testing.assert_allclose(
        relu_balance(inputs, 0.9), alone / 2, rtol=1e-12
    )


def test_the_tolerance_is_the_papers():
  """τ = 0.5; ratios from it on cost nothing, one of 0 costs 1."""
  first = domains.box(jnp.zeros((1, 2)), jnp.full((1, 2), 0.1))
  for width, expected in ((0.05, 0), (0.1999, 0), (0.4, 0.5), (1e6, 1)):
    wide = domains.box(jnp.zeros((1, 2)), jnp.full((1, 2), width))
    np.testing.assert_allclose(
        tightness(first, [wide]), expected, atol=1e-6
    )
  # Sizes 3 to 1, and squared distances from the mean, 0.5, of 6.25 to 2.25.
  element = domains.box(jnp.array([[3.0, -1, 0, 0]]), jnp.full((1, 4), 0.1))
  expected = (0.5 - 1 / 3 + 0.5 - 2.25 / 6.25) / 0.5
  np.testing.assert_allclose(relu_balance([element]), expected)


def test_widths_are_those_of_all_error():
  """Generators count like the uncorrelated part."""
  rng = np.random.default_rng(4)
  center = jnp.asarray(rng.normal(size=(3, 8)))
  radius = jnp.asarray(np.abs(rng.normal(size=(3, 8))))
  kinds = domains.box, domains.correlated_box
  (box, boxes), (other, others) = (
      (make(center, 0.3 * radius), [make(center, radius)]) for make in kinds
  )
  one, two = (
      tightness(box, boxes), tightness(other, others)
  )
  np.testing.assert_allclose(one, two, rtol=1e-9)
  assert one > 0
  one, two = map(relu_balance, (boxes, others))
  np.testing.assert_allclose(one, two, rtol=1e-9)


def test_nothing_to_look_at():
  first = domains.box(jnp.zeros((1, 2)), jnp.ones((1, 2)))
  assert float(regularizers.tightness(first, [])) == 0
  assert float(regularizers.relu_balance([])) == 0


def test_gradients_are_finite_also_without_width():
  def total(radius):
    first = domains.box(jnp.zeros((1, 3)), radius)
    inputs = [domains.box(jnp.array([[1.0, -1, 0]]), radius)]
    return regularizers.tightness(first, inputs) + regularizers.relu_balance(
        inputs
    )

  slope_of = jax.jit(jax.value_and_grad(total))
  for radius in (0.0, 1e-30, 0.5):
    value, slope = slope_of(np.full((1, 3), radius))
    assert np.isfinite(value) and np.all(np.isfinite(slope))
  # All centers are equal, so none is away from their mean.
  flat = jax.jit(jax.grad(
      lambda c: regularizers.relu_balance([domains.box(c, 0.1)])
  ))
  for center in (0.0, 1.0, -1.0):
    assert np.all(np.isfinite(flat(np.full((1, 3), center))))


class Net(nn.Module):
  """A convolution and two dense layers, with a ReLU after the first two."""

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    x = Normalize((0.4,), (0.25,), name="normalize")(x, mode)
    x = ReLU()(Conv2D(3, 2, name="conv")(x, mode), mode)
    x = transformers.flatten(x)
    x = ReLU()(Linear(6, name="first")(x, mode), mode)
    return Linear(2, name="second")(x, mode)


def numpy_bounds(params, low, high):
  """Interval arithmetic: of the normalized input and before each ReLU."""

  def affine(low, high, kernel):
    center, radius = (low + high) / 2, (high - low) / 2
    center, radius = center @ kernel, radius @ np.abs(kernel)
    return center - radius, center + radius

  low, high = (low - 0.4) / 0.25, (high - 0.4) / 0.25
  found = [(low, high)]
  rows, columns = low.shape[1] - 1, low.shape[2] - 1
  patches = [
      np.concatenate([
          x[:, i : i + rows, j : j + columns] for i in (0, 1) for j in (0, 1)
      ], axis=-1)
      for x in (low, high)
  ]
  found.append(affine(*patches, params["conv"]["kernel"].reshape(-1, 3)))
  low, high = (np.maximum(x, 0).reshape(len(x), -1) for x in found[-1])
  found.append(affine(low, high, params["first"]["kernel"]))
  return found


def test_a_network_against_interval_arithmetic():
  """Both terms of what a network shows; their gradients reach its weights."""
  rng = np.random.default_rng(11)
  images = rng.uniform(size=(3, 5, 4, 1))
  box = domains.box(images, np.full(images.shape, 0.02))
  params = drawn_weights.shapes(Net(), images.shape[1:])["params"]
  params = jax.tree.map(
      lambda w: (rng.normal(size=w.shape) - 0.1) * (w.ndim > 1), params
  )

  @jax.jit
  def terms(params):
    _, shown = Net().apply(
        {"params": params}, box, Mode.TRAIN, mutable=["bounds"]
    )
    ((first,),) = observed(shown, "input")
    inputs = [call[0] for call in observed(shown, "before ReLU")]
    return jnp.stack([regularizers.tightness(first, inputs, 0.9),
                      regularizers.relu_balance(inputs, 0.9)])

  first, *inputs = (
      domains.box((l + u) / 2, (u - l) / 2)
      for l, u in numpy_bounds(params, images - 0.02, images + 0.02)
  )
  expected = [numpy_tightness(first, inputs, 0.9), numpy_balance(inputs, 0.9)]
  assert min(expected) > 0.05
  np.testing.assert_allclose(terms(params), expected, rtol=1e-9)
  slopes = jax.jit(jax.jacrev(terms))(params)
  for layer, place in (("conv", (0, 1, 0, 2)), ("first", (5, 3))):
    step = np.zeros_like(params[layer]["kernel"])
    step[place] = 1e-6
    ends = [
        terms(params | {layer: params[layer] | {
            "kernel": params[layer]["kernel"] + sign * step
        }})
        for sign in (1, -1)
    ]
    np.testing.assert_allclose(
        np.asarray(slopes[layer]["kernel"])[(slice(None), *place)],
        (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8,
    )


def test_a_network_shows_its_bounds_before_each_relu():
  """For each element of a Product, and only if it is asked."""
  network = create("ConvSmall", 10, (0.1307,), (0.3081,))
  rng = np.random.default_rng(0)
  images = rng.uniform(size=(2, 12, 12, 1))
  box = domains.box(images, np.full(images.shape, 0.1))
  small = domains.box(images, np.full(images.shape, 0.01))
  params = drawn_weights.variables(network, (12, 12, 1), dtype=np.float64)
  value = Product((images, box, small))
  _, shown = jax.jit(
      lambda value: network.apply(
          params, value, Mode.TRAIN, mutable=[COLLECTION]
      )
  )(value)
  (first,), inputs = observed(shown, "input"), observed(shown, "before ReLU")
  assert len(first) == 2 and [len(call) for call in inputs] == [2, 2, 2]
  assert [call[0].center.shape[1:] for call in inputs] == [
      (5, 5, 16), (1, 1, 32), (100,)
  ]
  np.testing.assert_allclose(first[0].uncorrelated, 0.1 / 0.3081, rtol=1e-6)
  np.testing.assert_allclose(first[1].uncorrelated, 0.01 / 0.3081, rtol=1e-6)
  kernel = layers(params["params"])[0]["kernel"]
  expected = 0.1 / 0.3081 * np.abs(kernel).sum(axis=(0, 1, 2))
  np.testing.assert_allclose(
      inputs[0][0].uncorrelated, np.broadcast_to(expected, (2, 5, 5, 16)),
      rtol=1e-5,
  )
  _, nothing = jax.eval_shape(
      lambda: network.apply(params, value, Mode.TRAIN, mutable=["deep_loss"])
  )
  assert COLLECTION not in nothing and COLLECTION not in params


def test_gradients_are_those_of_the_formulas():
  """Against finite differences, the mean's own gradient included."""
  rng = np.random.default_rng(3)
  center = rng.normal(size=(3, 12)) - 0.6
  radius = np.full((3, 12), 0.2)

  def balance(center):
    element = domains.box(jnp.asarray(center), jnp.asarray(radius))
    return regularizers.relu_balance([element], 0.95)

  value, slope = map(np.asarray, jax.jit(jax.value_and_grad(balance))(center))
  assert float(value) > 0.1
  for index in [(0, 0), (1, 5), (2, 11), (0, 7)]:
    step = np.zeros_like(center)
    step[index] = 1e-6
    ends = [
        float(relu_balance([domains.box(center + s * step, radius)], 0.95))
        for s in (1, -1)
    ]
    np.testing.assert_allclose(
        slope[index], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8
    )
