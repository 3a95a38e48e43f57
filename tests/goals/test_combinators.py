"""Sample, BiSample, AdvDom and mixtures, against NumPy at three epochs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_attack_goals import KEYS, abstract, ascend, context_at
from test_goals import BATCH, EPOCHS, LABELS, LOWER, MARGINS, SIZE, UPPER
from test_goals import box_margins, cross_entropy, hbox_margins, linear
from test_goals import point_margins, shrunk

from diffai_jax import goals
from diffai_jax.goals import AdvDom, BiSample, Box, Coin, HBox, IFGSM, Mix
from diffai_jax.goals import MixLogs, MixMargins, Normal, Point, Sample, Sub
from diffai_jax.goals import NormalSub, SmallBox, Uniform, Weighted
from diffai_jax.goals.points import Attacked, Original
from diffai_jax.schedules import Lin, Until
from diffai_jax.types import Mode

RAMP = Lin(0.2, 1, 150, 10)  # At EPOCHS: 0.2, 0.6, 1.
RAMPS = list(zip(EPOCHS, (0.2, 0.6, 1.0)))
BATCH_KEY = jax.random.key(11)


def loss_of(goal, epoch=0.0, images=None):
  """By one program for all epochs."""
  return np.asarray(_loss(goal, LOWER, UPPER, epoch, images))


@functools.partial(jax.jit, static_argnums=0)
def _loss(goal, lower, upper, epoch, images):
  context = context_at(epoch, batch_key=BATCH_KEY, images=images)
  value = goal.abstract(lower, upper, context)
  return goal.loss(linear(value, Mode.TRAIN), context.labels, context)


def box_around(goal, lower, upper, epoch, **others):
  """Center and radii of a goal's boxes."""
  return map(np.asarray, _box_around(goal, lower, upper, epoch, others))


@functools.partial(jax.jit, static_argnums=0)
def _box_around(goal, lower, upper, epoch, others):
  element = goal.abstract(lower, upper, context_at(epoch, **others))
  return element.center, element.uncorrelated


def box_loss(l, u):
  return cross_entropy(box_margins(l, u))


def attacked(l, u, steps):
  return np.stack([
      ascend((a + b) / 2, a, b, y, steps, 1 / steps)
      for a, b, y in zip(l, u, LABELS)
  ])


@pytest.mark.parametrize("epoch, scale", RAMPS)
@pytest.mark.parametrize("reach", [0, 0.5, 1])
def test_sample_around_an_attack(epoch, scale, reach, float64):
  """b = center of α^{Sub(1 - r·δ, gs)}; then gt on b ± ½δ(u - l)."""
  loss = loss_of(Sample(RAMP, reach, IFGSM(2), Box()), epoch)
  b = attacked(*shrunk(1 - reach * scale, LOWER, UPPER), 2)
  half = scale * (UPPER - LOWER) / 2
  np.testing.assert_allclose(loss, box_loss(b - half, b + half), atol=1e-9)


@pytest.mark.parametrize("epoch, share", RAMPS)
def test_small_boxes_near_images_that_are_cut_off(epoch, share, float64):
  """As SABR's authors have it: near the image, and cut off afterwards."""
  images = np.random.default_rng(3).choice([0, 0.1, 0.5, 0.95, 1], LOWER.shape)
  radius = 0.3
  l, u = np.maximum(images - radius, 0), np.minimum(images + radius, 1)

  def cut(point, reach):
    return np.maximum(l, point - reach), np.minimum(u, point + reach)

  center, radii = box_around(
      SmallBox(RAMP, IFGSM(2), Box()), l, u, epoch, images=images
  )
  found = attacked(*cut(images, (1 - share) * radius), 2)
  low, high = cut(found, share * radius)
  np.testing.assert_allclose(center - radii, low, atol=1e-9)
  np.testing.assert_allclose(center + radii, high, atol=1e-9)
  if share >= 0.5:
    assert np.all((low <= images + 1e-12) & (images <= high + 1e-12))


@pytest.mark.parametrize("epoch, share", RAMPS)
def test_small_boxes_in_a_whole_ball_are_samples(epoch, share, float64):
  images = jnp.asarray((LOWER + UPPER) / 2)
  small = loss_of(SmallBox(RAMP, IFGSM(2), Box()), epoch, images=images)
  np.testing.assert_allclose(
      small, loss_of(Sample(RAMP, 1, IFGSM(2), Box()), epoch), atol=1e-9
  )


def test_small_boxes_of_a_scaled_box_begin_at_its_nearest_corner(float64):
  """Without images the center is the image."""
  l, u = np.zeros((1, 2)), np.full((1, 2), 0.3)
  goal = Sub(0.5, SmallBox(0.5, Point(), Box()))
  for images, low, high in (
      (np.array([[0, 0.3]]), [[0.075, 0.1125]], [[0.1875, 0.225]]),
      (None, [[0.1125, 0.1125]], [[0.1875, 0.1875]]),
  ):
    center, radius = box_around(goal, l, u, 0.0, images=images)
    np.testing.assert_allclose(center - radius, low)
    np.testing.assert_allclose(center + radius, high)


def test_sample_of_a_region_takes_its_center(float64):
  loss = loss_of(Sample(0.5, 1, Sub(0.3, HBox()), Box()))
  expected = box_loss(*shrunk(0.5, LOWER, UPPER))
  np.testing.assert_allclose(loss, expected, atol=1e-9)


@pytest.mark.parametrize("source", [Normal(), Uniform()], ids=str)
def test_sample_around_random_points_stays_in_the_box(source, float64):
  """With reach 1 the small box never leaves the input box; below 1 it may."""
  keys = jax.random.split(jax.random.key(0), 500)
  l, u = np.zeros((500, SIZE)), np.ones((500, SIZE))

  def bounds(reach):
    goal = Sample(0.4, reach, source, Box())
    center, radius = box_around(
        goal, l, u, 0.0, keys=keys, labels=np.zeros(500, int)
    )
    np.testing.assert_allclose(radius, 0.2, atol=1e-12)
    return center - radius, center + radius

  low, high = bounds(1)
  assert low.min() >= -1e-12 and high.max() <= 1 + 1e-12
  assert low.min() < 0.02 and high.max() > 0.98
  low, high = bounds(0.5)
  assert low.min() < -0.05 and high.max() > 1.05


@pytest.mark.parametrize("epoch, scale", RAMPS)
def test_normal_sub_is_sub_of_a_random_size(epoch, scale, float64):
  """Radii are |N(0, 1)| times Sub's, one number for each example."""
  keys = jax.random.split(jax.random.key(3), 3000)
  l, u = np.zeros((3000, SIZE)), np.linspace(0.5, 1, SIZE) * np.ones((3000, 1))
  center, radius = box_around(
      NormalSub(RAMP, Box()), l, u, epoch, keys=keys,
      labels=np.zeros(3000, int),
  )
  np.testing.assert_allclose(center, (l + u) / 2, atol=1e-12)
  sizes = radius / (scale * (u - l) / 2)
  np.testing.assert_allclose(sizes, sizes[:, :1].repeat(SIZE, 1), rtol=1e-9)
  assert stats.kstest(sizes[:, 0], stats.halfnorm.cdf).pvalue > 0.01


@pytest.mark.parametrize("epoch, scale", RAMPS)
def test_bisample(epoch, scale, float64):
  """α^g2 on c ± |p - c|, p the upper end of α^g1."""
  c = (LOWER + UPPER) / 2
  loss = loss_of(BiSample(Sub(RAMP, IFGSM(3)), Box()), epoch)
  p = attacked(*shrunk(scale, LOWER, UPPER), 3)
  expected = box_loss(c - np.abs(p - c), c + np.abs(p - c))
  np.testing.assert_allclose(loss, expected, atol=1e-9)
  # Of a region it is the upper bound that counts: the whole scaled box.
  loss = loss_of(BiSample(Sub(RAMP, Box()), HBox()), epoch)
  expected = cross_entropy(hbox_margins(*shrunk(scale, LOWER, UPPER)))
  np.testing.assert_allclose(loss, expected, atol=1e-9)


@pytest.mark.parametrize("epoch, scale", RAMPS)
def test_advdom_shares_its_points(epoch, scale, float64):
  """The box between center and attack, and both of its corners."""
  inner = Weighted(((Attacked(), 1), (Original(), RAMP), (Box(), 0.5)))
  loss = loss_of(AdvDom(IFGSM(2), inner), epoch)
  c, p = (LOWER + UPPER) / 2, attacked(LOWER, UPPER, 2)
  box = box_loss(np.minimum(c, p), np.maximum(c, p))
  at = lambda x: cross_entropy(point_margins(x, x))
  expected = (at(p) + scale * at(c) + 0.5 * box) / (1.5 + scale)
  np.testing.assert_allclose(loss, expected, atol=1e-9)


def test_the_attack_is_shared_not_repeated(float64):
  """The network's gradient is asked for by one attack, not by each part."""
  runs = []

  def counting(value, mode):
    runs.append(mode)
    return linear(value, mode)

  inner = Weighted(((Attacked(), 1), (Attacked(), 1), (Box(), 0.5)))
  AdvDom(IFGSM(2), inner).abstract(
      jnp.asarray(LOWER), jnp.asarray(UPPER), context_at(forward=counting)
  )
  assert len(runs) == 3  # Both steps, and one more to see how large they are.


@pytest.mark.parametrize("epoch, weight", list(zip(EPOCHS, (0.0, 0.25, 0.5))))
def test_weighted(epoch, weight, float64):
  """Σ w·loss / Σ w; a weight of 0 leaves its goal out."""
  goal = Weighted((
      (Point(), 1), (Sub(0.5, Box()), Lin(0, 0.5, 150, 10)), (HBox(), 0.2)
  ))
  point, box, hbox = (
      cross_entropy(point_margins(LOWER, UPPER)),
      box_loss(*shrunk(0.5, LOWER, UPPER)),
      cross_entropy(hbox_margins(LOWER, UPPER)),
  )
  expected = (point + weight * box + 0.2 * hbox) / (1.2 + weight)
  np.testing.assert_allclose(loss_of(goal, epoch), expected, atol=1e-9)


def test_weights_that_are_all_0_for_a_while_train_nothing(float64):
  goal = Weighted(((Point(), Until(5, 0, 1)), (Box(), Until(5, 0, 2))))
  np.testing.assert_array_equal(loss_of(goal, 2.0), 0)
  expected = loss_of(Weighted(((Point(), 1), (Box(), 2))))
  np.testing.assert_allclose(loss_of(goal, 7.0), expected)


@pytest.mark.parametrize("epoch, weight", list(zip(EPOCHS, (0.0, 0.5, 1.0))))
def test_mix_margins_is_cc_ibp(epoch, weight, float64):
  """log Σ_k exp((1 - λ)·adversarial margin_k + λ·bound of margin_k)."""
  loss = loss_of(MixMargins(IFGSM(3), Box(), Lin(0, 1, 150, 10)), epoch)
  p = attacked(LOWER, UPPER, 3)
  mixed = (1 - weight) * point_margins(p, p) + weight * box_margins(
      LOWER, UPPER
  )
  expected = np.log(np.exp(mixed).sum(axis=1))
  np.testing.assert_allclose(loss, expected, atol=1e-9)


@pytest.mark.parametrize("epoch, weight", list(zip(EPOCHS, (0.0, 0.5, 1.0))))
def test_mix_logs_is_exp_ibp(epoch, weight, float64):
  """(adversarial loss)^(1 - λ) · (bound of the loss)^λ."""
  loss = loss_of(MixLogs(IFGSM(3), Box(), Lin(0, 1, 150, 10)), epoch)
  p = attacked(LOWER, UPPER, 3)
  one, two = cross_entropy(point_margins(p, p)), box_loss(LOWER, UPPER)
  np.testing.assert_allclose(loss, one ** (1 - weight) * two**weight, rtol=1e-9)


def test_expressive_losses_lie_between_their_ends(float64):
  """De Palma et al. 2024: convex in λ, from the attack to the bound."""
  p = attacked(LOWER, UPPER, 3)
  low, high = cross_entropy(point_margins(p, p)), box_loss(LOWER, UPPER)
  for kind in (Mix, MixMargins, MixLogs):
    goal = kind(IFGSM(3), Box(), Lin(0, 1, 10))
    losses = [loss_of(goal, epoch) for epoch in (0, 3, 7, 10)]
    np.testing.assert_allclose(losses[0], low, rtol=1e-9)
    np.testing.assert_allclose(losses[-1], high, rtol=1e-9)
    assert np.all(np.diff(losses, axis=0) > 0)


def test_mix_logs_of_losses_that_round_to_0_has_finite_gradients():
  def loss(scale):
    output = goals.Mix(Point(), Point(), 0.5).abstract(
        jnp.zeros((1, 2)), jnp.zeros((1, 2)), context_at(keys=None)
    )
    margins = jnp.array([[0.0, -300.0]]) * scale
    output = type(output)((margins, margins))
    goal = MixLogs(Point(), Point(), 0.5)
    return goal.loss(output, jnp.array([0]), context_at(keys=None))[0]

  value, slope = jax.jit(jax.value_and_grad(loss))(1.0)
  assert np.isfinite(value) and np.isfinite(slope)


# Coins.


def test_a_coin_is_thrown_for_the_whole_batch(float64):
  """The loss is one of its goals' at each key, as often as its weight says."""
  goal = Coin(((Point(), 1), (Box(), Lin(1, 3, 10))))
  one, two = cross_entropy(point_margins(LOWER, UPPER)), box_loss(LOWER, UPPER)

  @jax.jit
  def loss(key):
    context = context_at(20.0, batch_key=key)
    value = goal.abstract(jnp.asarray(LOWER), jnp.asarray(UPPER), context)
    return goal.loss(linear(value, Mode.TRAIN), context.labels, context)

  fallen = []
  for key in jax.random.split(jax.random.key(0), 400):
    found = np.asarray(loss(key))
    fallen.append(np.allclose(found, two, atol=1e-9))
    assert fallen[-1] or np.allclose(found, one, atol=1e-9)
  assert np.mean(fallen) == pytest.approx(0.75, abs=0.07)


def test_equal_coins_fall_alike_and_others_apart():
  one, two = Coin(((Point(), 1), (Box(), 1))), Coin(((Point(), 1), (HBox(), 1)))
  keys = jax.random.split(jax.random.key(1), 200)

  @functools.partial(jax.jit, static_argnums=0)
  def thrown(coin):
    return jax.vmap(lambda key: coin.weights(jnp.asarray(0.0), key))(keys)

  throw = lambda coin: np.asarray(thrown(coin))[:, 0]
  np.testing.assert_array_equal(throw(one), throw(one))
  assert 0.35 < np.mean(throw(one) == throw(two)) < 0.65


def test_a_coin_without_a_key_says_so():
  with pytest.raises(ValueError, match="give its Context a batch_key"):
    Coin(((Point(), 1),)).weights(jnp.asarray(0.0), None)


# Parts have random numbers of their own.


def test_two_samples_in_one_objective_are_different():
  goal = Mix(Normal(), Normal(), 0.5)
  value = jax.jit(lambda l, u: goal.abstract(l, u, context_at()))(LOWER, UPPER)
  first, second = map(np.asarray, value)
  assert np.all(first != second)


def test_accuracies_and_margins_of_mixtures(float64):
  """What is measured on points and on regions, each by its own name."""
  goal = Weighted(((Point(), 1), (Sub(0.1, Box()), 1), (HBox(), 1)))

  @jax.jit
  def run(lower, upper):
    context = context_at()
    value = goal.abstract(lower, upper, context)
    arguments = linear(value, Mode.TRAIN), context.labels, context
    return goal.accuracies(*arguments), goal.margins(*arguments)

  found, margins = run(LOWER, UPPER)
  assert set(found) == {"accuracy", "verified"}
  small = box_margins(*shrunk(0.1, LOWER, UPPER))
  others = np.arange(small.shape[1]) != LABELS[:, None]
  np.testing.assert_array_equal(
      found["verified"], np.all((small < 0) | ~others, axis=1)
  )
  expected = np.maximum.reduce([
      point_margins(LOWER, UPPER), small, hbox_margins(LOWER, UPPER)
  ])
  np.testing.assert_allclose(margins, expected, atol=1e-9)


def test_shared_points_need_someone_who_shares():
  with pytest.raises(ValueError, match="only has a meaning within AdvDom"):
    abstract(Attacked())


