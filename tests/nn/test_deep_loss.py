"""DeepLoss: the printed formula, with ties; folded in the layers' order."""

import functools

import drawn_weights
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses
from diffai_jax.domains import Dense, HybridZonotope, Product
from diffai_jax.nn import CorrelateAll, DeepLoss, Linear, ReLU
from diffai_jax.nn.deep_loss import COLLECTION, mix_in
from diffai_jax.schedules import Lin
from diffai_jax.types import Mode


def printed_formula(low, high, f):
  """The O(n²) definition of the paper's section 3.3, one example at a time."""
  totals = []
  for l, u in zip(low, high):
    lower = [max(f(u[j] - l[i]) for j in range(len(l)) if l[j] <= l[i])
             for i in range(len(l))]
    upper = [max(f(u[i] - l[j]) for j in range(len(l)) if u[i] <= u[j])
             for i in range(len(l))]
    totals.append((sum(lower) + sum(upper)) / (2 * len(l)))
  return np.array(totals)


ACTIVATIONS = {
    jax.nn.relu: lambda x: max(x, 0.0),
    jax.nn.softplus: lambda x: np.logaddexp(x, 0.0),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["random", "after_relu", "all_tie", "rounded"])
def test_equals_the_printed_formula(kind, activation):
  rng = np.random.default_rng(0)
  center, radius = rng.normal(size=(2, 3, 4, 6))
  radius = np.abs(radius)
  if kind == "rounded":  # Many bounds are equal, in both orders.
    center, radius = np.round(center), np.round(radius * 2) / 2
  if kind == "all_tie":
    center, radius = np.ones_like(center), np.full_like(radius, 0.5)
  element = domains.box(center, radius)
  low, high = center - radius, center + radius
  if kind == "after_relu":  # Most lower bounds are exactly 0.
    element = HybridZonotope(np.maximum(high, 0) / 2, np.maximum(high, 0) / 2)
    low, high = np.zeros_like(high), np.maximum(high, 0)
  expected = printed_formula(
      low.reshape(3, -1), high.reshape(3, -1), ACTIVATIONS[activation]
  )
  found = jax.jit(losses.deep_loss, static_argnums=1)(element, activation)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_gradient_is_that_of_the_pairs_that_count():
  """Finite differences, where no order changes."""
  rng = np.random.default_rng(1)
  center = rng.normal(size=(1, 7)).astype(np.float32)
  loss = jax.jit(lambda c: losses.deep_loss(domains.box(c, 0.4))[0])
  gradient = np.asarray(jax.jit(jax.grad(loss))(center))
  for i in range(7):
    step = np.zeros_like(center)
    step[0, i] = 1e-3
    slope = (loss(center + step) - loss(center - step)) / 2e-3
    np.testing.assert_allclose(gradient[0, i], slope, atol=2e-3)


def test_gradient_is_finite_where_everything_ties():
  loss = lambda c: losses.deep_loss(domains.box(c, 0.0)).sum()
  gradient = jax.jit(jax.grad(loss))(np.zeros((2, 9), np.float32))
  assert np.all(np.isfinite(gradient))


def test_wide_layers_take_linear_memory():
  """n = 65,536: the n² form would take 16 GiB an example."""
  shape = jax.ShapeDtypeStruct((1, 65536), jnp.float32)
  compiled = jax.jit(
      lambda c: losses.deep_loss(domains.box(c, 0.1))
  ).lower(shape).compile()
  stats = compiled.memory_analysis()
  assert stats.temp_size_in_bytes < 100 * 65536 * 4


class Net(nn.Module):
  """Names that sort against the order of the layers."""

  @nn.compact
  def __call__(self, x, mode=Mode.CONCRETE):
    x = Linear(5, name="z")(x, mode)
    x = DeepLoss(Lin(0, 1, 10), only_train=True, name="b")(x, mode)
    x = ReLU()(x, mode)
    return DeepLoss(0.5, only_train=True, name="a")(x, mode)


PARAMS = drawn_weights.variables(Net(), (3,))
ONES = np.ones((2, 3), np.float32)


@functools.partial(jax.jit, static_argnums=1)
def run(value, mode):
  return Net().apply(PARAMS, value, mode, mutable=[COLLECTION])


def test_folds_in_the_order_of_the_layers():
  start = np.array([2, 3], np.float32)

  @jax.jit
  def run(epoch):
    """Both layers' losses, and what they are mixed into."""
    box = domains.box(ONES, 0.3)
    output, sown = Net().apply(
        PARAMS, Product((ONES, box)), Mode.TRAIN, mutable=[COLLECTION]
    )
    hidden = Linear(5).apply({"params": PARAMS["params"]["z"]}, box)
    return (losses.deep_loss(hidden), losses.deep_loss(output[1]),
            mix_in(start, sown, epoch))

  for epoch, weight in ((0.0, 0.0), (4.0, 0.4), (99.0, 1.0)):
    first, second, found = map(np.asarray, run(epoch))
    expected = (1 - weight) * start + weight * first
    expected = 0.5 * expected + 0.5 * second
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("mode", [Mode.CONCRETE, Mode.CERTIFY])
def test_only_train_layers_sow_nothing_elsewhere(mode):
  value = ONES if mode is Mode.CONCRETE else domains.box(ONES, 0.3)
  _, sown = run(value, mode)
  np.testing.assert_array_equal(mix_in(jnp.ones(2), sown, 5.0), 1)


def test_points_have_no_deep_loss():
  output, sown = run(ONES, Mode.TRAIN)
  assert output.shape == (2, 5)
  np.testing.assert_array_equal(mix_in(jnp.ones(2), sown, 5.0), 1)


def test_a_weight_of_zero_keeps_an_overflow_out():
  one = np.ones((1, 1, 3), np.float32)
  infinite = HybridZonotope(0 * one[0], np.inf * one[0], {"a": Dense(one)})
  layer = DeepLoss(Lin(0, 1, 10))

  @jax.jit
  def mixed(epoch):
    _, sown = layer.apply({}, infinite, Mode.TRAIN, mutable=[COLLECTION])
    return mix_in(jnp.ones(1), sown, epoch)

  np.testing.assert_array_equal(mixed(0.0), 1)
  assert not np.isfinite(mixed(5.0))[0]


def test_describe():
  layer = DeepLoss(Lin(0.5, 0, 50, 3), only_train=True)
  assert layer.describe((3,)) == (
      "DeepLoss only_train=True bw=Lin(0.5, 0, 50, 3) act=relu"
  )
  assert CorrelateAll().describe((3,)) == "CorrelateAll only_train=False"
