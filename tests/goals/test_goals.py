"""Goals against NumPy computations of the paper's Table 1."""

from fractions import Fraction
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import generators
from diffai_jax.goals import REGIONS, Box, Context, HBox, Mix, Point, Sub, ball
from diffai_jax.schedules import Lin, Until
from diffai_jax.types import Mode

BATCH, SIZE, CLASSES = 3, 4, 5
LABELS = np.array([0, 3, 4])
# Before, within and after the ramps of the schedules below.
EPOCHS = (4.0, 85.0, 300.0)

_rng = np.random.default_rng(0)
KERNEL = _rng.normal(size=(SIZE, CLASSES))
BIAS = _rng.normal(size=CLASSES)
LOWER = _rng.uniform(0, 0.6, (BATCH, SIZE))
UPPER = LOWER + _rng.uniform(0, 0.4, (BATCH, SIZE))
HIDDEN = _rng.normal(size=(SIZE, 6)), _rng.normal(size=6) / 4
HEAD = _rng.normal(size=(6, CLASSES)), _rng.normal(size=CLASSES)


def of_default_type(*arrays):
  """As float64 with the fixture of that name, else as float32."""
  return [np.asarray(array, jnp.result_type(float)) for array in arrays]


def linear(value, mode):
  """The network x @ KERNEL + BIAS."""
  del mode
  return transformers.dense(value, *of_default_type(KERNEL, BIAS))


def two_layers(value, mode):
  """A network with a ReLU."""
  del mode
  value = transformers.dense(value, *of_default_type(*HIDDEN))
  value = transformers.relu(value, symbol="relu")
  return transformers.dense(value, *of_default_type(*HEAD))


def context_at(epoch, forward=linear, labels=LABELS):
  # A copy: JAX keeps the type that an array has had as another's constant.
  return Context(forward, jnp.asarray(labels + 0), jnp.asarray(epoch))


def run(
    goal, epoch, lower=LOWER, upper=UPPER, forward=linear, labels=LABELS
):
  """Loss and margins of the goal, as a training step computes them."""
  return map(np.asarray, _run(goal, epoch, lower, upper, forward, labels + 0))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _run(goal, epoch, lower, upper, forward, labels):
  context = context_at(epoch, forward, labels)
  output = forward(goal.abstract(lower, upper, context), Mode.TRAIN)
  arguments = output, context.labels, context
  return goal.loss(*arguments), goal.margins(*arguments)


# Independent computations, an example at a time.


def point_margins(l, u):
  z = (l + u) / 2 @ KERNEL + BIAS
  return np.stack([row - row[y] for row, y in zip(z, LABELS)])


def box_margins(l, u):
  """Each logit's own interval: z_k - z_y <= c_k - c_y + r_k + r_y."""
  c, r = (l + u) / 2 @ KERNEL + BIAS, (u - l) / 2 @ np.abs(KERNEL)
  result = np.zeros_like(c)
  for i, y in enumerate(LABELS):
    for k in range(CLASSES):
      if k != y:
        result[i, k] = c[i, k] + r[i, k] - (c[i, y] - r[i, y])
  return result


def hbox_margins(l, u):
  """Exact for a linear map: the best corner for each difference of columns."""
  result = np.zeros((len(l), CLASSES))
  for i, y in enumerate(LABELS):
    for k in range(CLASSES):
      w = KERNEL[:, k] - KERNEL[:, y]
      best = np.where(w > 0, u[i], l[i])
      result[i, k] = best @ w + BIAS[k] - BIAS[y]
  return result


def cross_entropy(margins):
  """-log softmax at the label, whose margin is 0."""
  return np.log(np.sum(np.exp(margins), axis=1))


def shrunk(scale, l, u):
  """Sub's box, as Table 1 prints it."""
  return 0.5 * (u + l - scale * (u - l)), 0.5 * (u + l + scale * (u - l))


MARGINS = {Point(): point_margins, Box(): box_margins, HBox(): hbox_margins}
SIMPLE = pytest.mark.parametrize("goal", MARGINS, ids=str)


@SIMPLE
@pytest.mark.parametrize("epoch", EPOCHS)
def test_simple_goals(goal, epoch, float64):
  """Their margins and the cross entropy of these, at any epoch."""
  loss, margins = run(goal, epoch)
  expected = MARGINS[goal](LOWER, UPPER)
  np.testing.assert_allclose(margins, expected, rtol=0, atol=1e-9)
  np.testing.assert_allclose(loss, cross_entropy(expected), rtol=0, atol=1e-9)


def test_point_is_the_usual_cross_entropy(float64):
  """-log softmax(z)[y] of the network's logits."""
  loss, _ = run(Point(), 0.0)
  z = (LOWER + UPPER) / 2 @ KERNEL + BIAS
  softmax = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
  expected = [-np.log(p[y]) for p, y in zip(softmax, LABELS)]
  np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-9)


@SIMPLE
@pytest.mark.parametrize("epoch, scale", list(zip(EPOCHS, (0.25, 0.875, 1.5))))
def test_sub(goal, epoch, scale, float64):
  """The goal on the scaled box: 0.25 until 10, then 1.25 in 150 epochs."""
  loss, margins = run(Sub(Lin(0.25, 1.5, 150, 10), goal), epoch)
  expected = MARGINS[goal](*shrunk(scale, LOWER, UPPER))
  np.testing.assert_allclose(margins, expected, rtol=0, atol=1e-9)
  np.testing.assert_allclose(loss, cross_entropy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0, 0.5, 1, 2])
def test_sub_by_a_number(scale, float64):
  """A constant scale, also 0 (the center) and above 1."""
  loss, _ = run(Sub(scale, Box()), 7.0)
  expected = box_margins(*shrunk(scale, LOWER, UPPER))
  np.testing.assert_allclose(loss, cross_entropy(expected), rtol=0, atol=1e-9)


def test_nested_subs_multiply(float64):
  """Sub(0.5, Sub(0.6, g)) is g on the box scaled by 0.3."""
  loss, _ = run(Sub(0.5, Sub(0.6, HBox())), 0.0)
  expected = hbox_margins(*shrunk(0.3, LOWER, UPPER))
  np.testing.assert_allclose(loss, cross_entropy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("epoch, weight", list(zip(EPOCHS, (0.0, 0.25, 0.5))))
@pytest.mark.parametrize("first", MARGINS, ids=str)
@pytest.mark.parametrize("second", MARGINS, ids=str)
def test_mix(first, second, epoch, weight, float64):
  """(1 - λ)·loss of the first + λ·loss of the second, both on the box."""
  loss, margins = run(Mix(first, second, Lin(0, 0.5, 150, 10)), epoch)
  one, two = MARGINS[first](LOWER, UPPER), MARGINS[second](LOWER, UPPER)
  expected = (1 - weight) * cross_entropy(one) + weight * cross_entropy(two)
  np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-9)
  np.testing.assert_allclose(margins, np.maximum(one, two), rtol=0, atol=1e-9)


@pytest.mark.parametrize("epoch, ramp", list(zip(EPOCHS, (0.0, 0.5, 1.0))))
def test_baseline(epoch, ramp, float64):
  """The paper's IBP: box and weight grow together, here 150 epochs from 10."""
  goal = Mix(Point(), Sub(Lin(0, 1, 150, 10), Box()), Lin(0, 0.5, 150, 10))
  loss, _ = run(goal, epoch)
  box = cross_entropy(box_margins(*shrunk(ramp, LOWER, UPPER)))
  point = cross_entropy(point_margins(LOWER, UPPER))
  expected = (1 - ramp / 2) * point + ramp / 2 * box
  np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("epoch, weight", list(zip(EPOCHS, (1.0, 0.95, 0.2))))
def test_nested_mix(epoch, weight, float64):
  """Mixes nest on either side and under Sub; Until schedules the weight."""
  inner = Mix(Sub(0.5, Box()), HBox(), 0.75)
  goal = Sub(0.5, Mix(inner, Point(), Until(80, 1, Lin(0.95, 0.2, 50, 10))))
  loss, _ = run(goal, epoch)
  box = cross_entropy(box_margins(*shrunk(0.25, LOWER, UPPER)))
  hbox = cross_entropy(hbox_margins(*shrunk(0.5, LOWER, UPPER)))
  point = cross_entropy(point_margins(LOWER, UPPER))
  expected = (1 - weight) * (0.25 * box + 0.75 * hbox) + weight * point
  np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-9)


def test_a_weight_of_0_leaves_the_other_loss_alone():
  """Also where bounds overflow, as those of deep networks do at first."""
  kernel = np.float32(1e30) * np.arange(CLASSES, dtype=np.float32)

  def forward(value, mode):
    del mode
    weights = jnp.broadcast_to(kernel, (SIZE, CLASSES))
    return transformers.dense(value, weights, jnp.zeros(CLASSES))

  lower, upper = np.zeros((2, BATCH, SIZE), np.float32)
  upper = upper + np.float32(1e-3)
  box = Sub(1e20, Box())
  point, _ = run(Point(), 0.0, lower, upper, forward)
  assert np.isfinite(point).all()
  goal = Mix(Point(), box, Lin(0, 0.5, 5, 5))
  loss, _ = run(goal, 0.0, lower, upper, forward)
  np.testing.assert_allclose(loss, point)


# What the abstractions are.


def test_point_abstracts_to_the_center(float64):
  value = Point().abstract(LOWER, UPPER, context_at(0.0))
  np.testing.assert_array_equal(value, (LOWER + UPPER) / 2)


def test_box_abstracts_to_uncorrelated_error(float64):
  """⟨(l + u)/2, (u - l)/2, 0⟩, and no bit less."""
  element = Box().abstract(jnp.array(LOWER), jnp.array(UPPER), context_at(0.0))
  assert not element.correlated
  np.testing.assert_allclose(element.center, (LOWER + UPPER) / 2, atol=1e-12)
  np.testing.assert_allclose(
      element.uncorrelated, (UPPER - LOWER) / 2, atol=1e-12
  )


def test_hbox_abstracts_to_a_symbol_a_variable(float64):
  """The same box; its dense generators are a diagonal of the radii."""
  element = HBox().abstract(
      jnp.array(LOWER), jnp.array(UPPER), context_at(0.0)
  )
  if element.uncorrelated is not None:
    np.testing.assert_array_equal(element.uncorrelated, np.zeros_like(LOWER))
  (block,) = element.correlated.values()
  expected = [np.diag(r) for r in (UPPER - LOWER) / 2]
  np.testing.assert_allclose(
      generators.to_dense(block).coefficients, expected, atol=1e-12
  )
  np.testing.assert_allclose(element.center, (LOWER + UPPER) / 2, atol=1e-12)


def test_mix_abstracts_to_the_product(float64):
  """α^g1 × α^g2: both parts in one value, in this order."""
  value = Mix(Point(), Box(), 0.5).abstract(
      jnp.array(LOWER), jnp.array(UPPER), context_at(0.0)
  )
  assert isinstance(value, domains.Product)
  point, box = value.parts
  np.testing.assert_array_equal(point, (LOWER + UPPER) / 2)
  assert isinstance(box, domains.HybridZonotope)


@pytest.mark.parametrize("name", REGIONS)
def test_regions_contain_their_box(name):
  """In float32, to the last bit, whatever the box; and by their own name."""
  rng = np.random.default_rng(1)
  scales = np.float32(10.0) ** rng.integers(-30, 30, (50, 1))
  l = (rng.normal(size=(50, 40)) * scales).astype(np.float32)
  u = l + (rng.uniform(size=l.shape) * scales).astype(np.float32)
  u[:, ::4] = l[:, ::4]
  u[:, 1::4] = np.nextafter(l[:, 1::4], np.float32(np.inf))
  element = REGIONS[name].abstract(
      jnp.asarray(l), jnp.asarray(u), context_at(0.0)
  )
  assert type(REGIONS[name]).__name__ == name
  # In float64, where these sums are exact enough to tell.
  center = np.asarray(element.center, np.float64)
  reach = np.asarray(domains.radius(element), np.float64)
  assert np.all(center - reach <= l) and np.all(u <= center + reach)
  assert np.all(domains.lower(element) <= l)
  assert np.all(u <= domains.upper(element))


# What the numbers mean.


@pytest.mark.parametrize("forward", [linear, two_layers])
@pytest.mark.parametrize("epsilon", [1e-9, 1e-3, 0.1, 0.7])
@pytest.mark.parametrize("name", REGIONS)
def test_no_point_of_the_ball_is_worse(name, epsilon, forward):
  """In float32: its loss and margins are at most the region's, exactly.

  Corners are among the points: for a linear network they are the worst.
  """
  rng = np.random.default_rng(2)
  images = rng.uniform(size=(BATCH, SIZE)).astype(np.float32)
  images[0, 0], images[1, 1] = 0, 1
  lower, upper = map(np.asarray, ball(jnp.asarray(images), epsilon))
  loss, margins = run(REGIONS[name], 0.0, lower, upper, forward)
  steps = rng.uniform(-1, 1, (300, BATCH, SIZE))
  steps[::2] = np.sign(steps[::2])
  points = np.clip(images + epsilon * steps, 0, 1).astype(np.float32)
  points, labels = points.reshape(-1, SIZE), np.tile(LABELS, 300)
  point_loss, point_margins = run(
      Point(), 0.0, points, points, forward, labels
  )
  assert np.all(point_margins.reshape(300, BATCH, CLASSES) <= margins)
  assert np.all(point_loss.reshape(300, BATCH) <= loss)


def test_hbox_is_at_least_as_sharp_as_box(float64):
  """On a linear network: it keeps what the logits share."""
  _, box = run(Box(), 0.0)
  _, hbox = run(HBox(), 0.0)
  assert np.all(hbox <= box + 1e-12)
  assert np.any(hbox < box - 1e-3)


@pytest.mark.parametrize("goal, names", [
    (Point(), "accuracy"),
    (Box(), "verified"),
    (HBox(), "verified"),
    (Sub(0.5, Point()), "accuracy"),
    (Sub(0.5, Box()), "verified"),
    (Mix(Point(), Sub(0.5, Box()), 0.5), "accuracy verified"),
], ids=str)
def test_accuracies(goal, names, float64):
  """Which examples have every margin below 0, by what is measured."""
  labels = np.argmax((LOWER + UPPER) / 2 @ KERNEL + BIAS, axis=1)
  labels[0] = (labels[0] + 1) % CLASSES
  upper = LOWER + np.array([1e-3, 1e-3, 0.9])[:, None] * (UPPER - LOWER)

  @jax.jit
  def run(lower, upper, labels):
    context = context_at(0.0, labels=labels)
    output = linear(goal.abstract(lower, upper, context), Mode.TRAIN)
    return goal.accuracies(output, context.labels, context)

  found = run(LOWER, upper, labels)
  assert set(found) == set(names.split())

  z = (LOWER + upper) / 2 @ KERNEL + BIAS
  scale = 1.0 if isinstance(goal, (Point, Box, HBox)) else 0.5
  half = scale * (upper - LOWER) / 2
  for name, values in found.items():
    for i, y in enumerate(labels):
      worst = [
          z[i, k] - z[i, y] + (name == "verified") * half[i] @ (
              np.abs(KERNEL[:, k] - KERNEL[:, y]) if goal == HBox()
              else np.abs(KERNEL[:, k]) + np.abs(KERNEL[:, y])
          )
          for k in range(CLASSES) if k != y
      ]
      assert bool(values[i]) == (max(worst) < 0)


def test_goals_of_the_same_kind_share_one_compilation():
  """Goals are static under jit, equal by value; epochs do not recompile."""
  traces = []

  def loss(goal, epoch):
    traces.append(goal)
    context = context_at(epoch)
    lower, upper = of_default_type(LOWER, UPPER)
    value = goal.abstract(lower, upper, context)
    return goal.loss(linear(value, Mode.TRAIN), context.labels, context)

  compiled = jax.jit(loss, static_argnums=0)
  for epoch in (*EPOCHS, 17.5):
    goal = Mix(Point(), Sub(Lin(0, 1, 150, 10), Box()), Lin(0, 0.5, 150, 10))
    actual = compiled(goal, jnp.asarray(epoch))
    expected, _ = run(goal, epoch)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
  assert len(traces) == 1


@pytest.mark.parametrize("goal", [
    Sub(-0.1, Box()),
    Sub(Lin(0, -1, 10), Box()),
    Mix(Point(), Box(), 1.5),
    Mix(Point(), Box(), -0.5),
    Mix(Point(), Box(), Until(5, 0, Lin(0, 2, 5))),
], ids=str)
def test_check_rejects_values_out_of_range(goal):
  """Scales are at least 0, weights within 0 and 1, at every epoch."""
  with pytest.raises(ValueError) as caught:
    goal.check()
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("goal", [
    Sub(0, Box()), Sub(Lin(0, 1.5, 10), Box()), Mix(Point(), Box(), 0),
    Mix(Point(), Box(), 1), Mix(Point(), Box(), Lin(1, 0, 10)),
], ids=str)
def test_check_accepts_the_ends_of_the_range(goal):
  goal.check()


# The ball.

IMAGES = np.concatenate([
    np.random.default_rng(3).uniform(size=500),
    np.arange(256) / 255,
    [0, 1, 1e-30, np.nextafter(np.float32(1), np.float32(0))],
]).astype(np.float32)


@pytest.mark.parametrize("data_range", [(0.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize("epsilon", [1e-9, 1e-5, 0.1, 8 / 255, 0.3, 1.0, 2.0])
def test_ball_is_rounded_outward(epsilon, data_range):
  """In exact arithmetic [max(o - ε, a), min(o + ε, b)] is inside, tightly."""
  low, high = data_range
  images = IMAGES if low == 0 else 2 * IMAGES - 1
  lower, upper = ball(jnp.asarray(images), epsilon, data_range)
  assert lower.dtype == upper.dtype == np.float32
  lower, upper = np.asarray(lower), np.asarray(upper)
  assert np.all((low <= lower) & (lower <= images))
  assert np.all((images <= upper) & (upper <= high))
  for o, l, u in zip(images, lower, upper):
    exact_low = max(Fraction(float(o)) - Fraction(epsilon), Fraction(low))
    exact_high = min(Fraction(float(o)) + Fraction(epsilon), Fraction(high))
    assert Fraction(float(l)) <= exact_low
    assert exact_high <= Fraction(float(u))
    slack = Fraction(1e-6) * Fraction(abs(float(o)) + epsilon)
    assert exact_low - Fraction(float(l)) <= slack
    assert Fraction(float(u)) - exact_high <= slack


def test_ball_of_radius_0_is_the_image():
  """Not a bit is added."""
  lower, upper = ball(jnp.asarray(IMAGES), 0.0)
  np.testing.assert_array_equal(lower, IMAGES)
  np.testing.assert_array_equal(upper, IMAGES)


def test_ball_under_jit_is_rounded_outward():
  """Also where XLA fuses the sums and the radius is traced."""
  epsilon = np.float32(1e-9)
  lower, upper = jax.jit(ball)(jnp.asarray(IMAGES), epsilon)
  exact = np.asarray(IMAGES, np.float64)
  assert np.all(np.asarray(lower) <= np.maximum(exact - float(epsilon), 0))
  assert np.all(np.asarray(upper) >= np.minimum(exact + float(epsilon), 1))
  same = jax.jit(ball)(jnp.asarray(IMAGES), np.float32(0))
  np.testing.assert_array_equal(same[0], IMAGES)
  np.testing.assert_array_equal(same[1], IMAGES)
