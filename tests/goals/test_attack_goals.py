"""Goals on points: samples and attacks, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_goals import BATCH, BIAS, EPOCHS, KERNEL, LABELS, LOWER, SIZE, UPPER
from test_goals import cross_entropy, linear, point_margins

from diffai_jax.goals import FGSM, IFGSM, MIFGSM, PGD, Context, Normal, Uniform
from diffai_jax.schedules import Lin
from diffai_jax.types import Mode

KEYS = jax.random.split(jax.random.key(7), BATCH)


def context_at(epoch=0.0, keys=KEYS, labels=LABELS, forward=linear, **others):
  # A copy: JAX keeps the type that an array has had as another's constant.
  return Context(
      forward, jnp.asarray(labels + 0), jnp.asarray(epoch), keys, **others
  )


def abstract(
    goal, lower=LOWER, upper=UPPER, epoch=0.0, keys=KEYS, labels=LABELS,
    **others,
):
  """The goal's points, by one program for all epochs."""
  return np.asarray(_abstract(
      goal, lower, upper, epoch, keys, labels, tuple(others.items())
  ))


@functools.partial(jax.jit, static_argnums=(0, 6))
def _abstract(goal, lower, upper, epoch, keys, labels, others):
  context = context_at(epoch, keys, labels, **dict(others))
  return goal.abstract(lower, upper, context)


# NumPy, an example at a time.


def softmax(z):
  return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def gradient(x, y):
  """Of the cross entropy of the linear network x @ KERNEL + BIAS."""
  return KERNEL @ (softmax(x @ KERNEL + BIAS) - np.eye(len(BIAS))[y])


def loss_at(x, y):
  return -np.log(softmax(x @ KERNEL + BIAS)[y])


def ascend(start, l, u, y, steps, step, momentum=0.0):
  x, m = start, np.zeros_like(start)
  for _ in range(steps):
    g = gradient(x, y)
    m = momentum * m + g / np.abs(g).sum()
    x = np.clip(x + step * (u - l) / 2 * np.sign(m), l, u)
  return x


def from_center(steps, step, momentum=0.0):
  return np.stack([
      ascend((l + u) / 2, l, u, y, steps, step, momentum)
      for l, u, y in zip(LOWER, UPPER, LABELS)
  ])


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_ifgsm(steps, float64):
  """k steps of radius/k from the center, at each pixel's own radius."""
  expected = from_center(steps, 1 / max(steps, 1))
  np.testing.assert_allclose(abstract(IFGSM(steps)), expected, atol=1e-12)


@pytest.mark.parametrize("epoch, step", list(zip(EPOCHS, (0.25, 0.875, 1.5))))
def test_fgsm_with_a_scheduled_step(epoch, step, float64):
  found = abstract(FGSM(Lin(0.25, 1.5, 150, 10)), epoch=epoch)
  np.testing.assert_allclose(found, from_center(1, step), atol=1e-12)


@pytest.mark.parametrize("epoch, steps, momentum", [
    (4.0, 2, 0.2), (85.0, 5, 0.6), (300.0, 8, 1.0)
])
def test_mifgsm_with_scheduled_steps_and_momentum(
    epoch, steps, momentum, float64
):
  """A number of steps moves with the epoch, in one compilation."""
  goal = MIFGSM(Lin(2, 8, 150, 10), 0.3, Lin(0.2, 1, 150, 10))
  found = abstract(goal, epoch=epoch)
  np.testing.assert_allclose(
      found, from_center(steps, 0.3, momentum), atol=1e-12
  )


def test_pgd_starts_at_random_points_and_keeps_the_worst(float64):
  """With no steps the starts show; with steps each is followed."""
  starts = [abstract(PGD(0, 0.5, restarts)) for restarts in (1, 2, 3)]
  for points in starts:
    assert np.all((LOWER <= points) & (points <= UPPER))
  # A later start only replaces an earlier one if its loss is higher.
  losses = [
      [loss_at(x, y) for x, y in zip(points, LABELS)] for points in starts
  ]
  assert np.all(np.diff(losses, axis=0) >= -1e-12)
  assert np.any(np.diff(losses, axis=0) > 0)
  found = abstract(PGD(4, 0.5))
  expected = np.stack([
      ascend(x, l, u, y, 4, 0.5)
      for x, l, u, y in zip(starts[0], LOWER, UPPER, LABELS)
  ])
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_restarts_of_mifgsm_begin_at_the_center(float64):
  one, two = (abstract(MIFGSM(3, 0.1, restarts=n)) for n in (1, 2))
  np.testing.assert_allclose(one, from_center(3, 0.1, 0.8), atol=1e-12)
  for a, b, y in zip(one, two, LABELS):
    assert np.array_equal(a, b) or loss_at(b, y) > loss_at(a, y)


@pytest.mark.parametrize("goal", [IFGSM(3), PGD(3), MIFGSM(3), FGSM()], ids=str)
def test_loss_is_the_cross_entropy_at_the_point(goal, float64):

  @jax.jit
  def run(lower, upper):
    context = context_at()
    point = goal.abstract(lower, upper, context)
    output = linear(point, Mode.TRAIN)
    return point, goal.loss(output, context.labels, context)

  point, loss = map(np.asarray, run(LOWER, UPPER))
  expected = cross_entropy(point_margins(point, point))
  np.testing.assert_allclose(loss, expected, atol=1e-9)


@pytest.mark.parametrize("goal", [IFGSM(3), PGD(3, restarts=2), MIFGSM(3)],
                         ids=str)
def test_attacks_do_not_couple_examples(goal, float64):
  """Each example alone finds the same point."""
  together = abstract(goal)
  for i in range(BATCH):
    alone = abstract(
        goal, LOWER[i : i + 1], UPPER[i : i + 1], keys=KEYS[i : i + 1],
        labels=LABELS[i : i + 1],
    )
    np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("goal", [IFGSM(2), PGD(2), MIFGSM(2), FGSM(9)],
                         ids=str)
def test_attacks_stay_in_the_box_and_in_the_data(goal, float64):
  inner = float(LOWER.min()) + 1e-3, float(UPPER.max()) - 1e-3
  for data_range in ((0.0, 1.0), inner):
    found = abstract(goal, data_range=data_range)
    low, high = np.clip(LOWER, *data_range), np.clip(UPPER, *data_range)
    assert np.all((low <= found) & (found <= high))
  # Where the box is known, as it is not while a program is traced.
  with pytest.raises(ValueError, match="outside of the data's range"):
    context = context_at(data_range=(0.3, 0.5))
    goal.abstract(jnp.asarray(LOWER), jnp.asarray(UPPER), context)


def test_no_gradient_reaches_parameters_through_the_attack(float64):
  """d loss/d kernel is that at the point found, held fixed."""

  def loss(kernel, point=None):
    def forward(x, mode):
      del mode
      return x @ jax.lax.stop_gradient(kernel) + BIAS

    context = context_at(forward=forward)
    if point is None:
      point = IFGSM(3).abstract(
          jnp.asarray(LOWER), jnp.asarray(UPPER), context
      )
    return IFGSM(3).loss(point @ kernel + BIAS, context.labels, context).sum()

  fixed = from_center(3, 1 / 3)
  found, expected = jax.jit(lambda kernel: (
      jax.grad(loss)(kernel), jax.grad(loss)(kernel, fixed)
  ))(KERNEL)
  np.testing.assert_allclose(found, expected, atol=1e-12)


# Samples.


def noise(goal, lower, upper, keys):
  """What a sample's noise was, in radii around the center."""
  point = abstract(goal, lower, upper, keys=keys, labels=np.zeros(len(keys)))
  return (point - (lower + upper) / 2) / ((upper - lower) / 2)


@pytest.mark.parametrize("goal, distribution", [
    (Normal(), lambda x: np.clip(stats.norm.rvs(size=x, random_state=1), -1, 1)),
    (Uniform(), lambda x: stats.uniform.rvs(-1, 2, size=x, random_state=1)),
], ids=["Normal", "Uniform"])
def test_samples_have_their_distribution(goal, distribution, float64):
  """½(l + u) + ½(u - l)·noise, the normal one clipped to the box."""
  keys = jax.random.split(jax.random.key(0), 2000)
  l = np.zeros((2000, SIZE)) + 0.2
  u = l + np.linspace(0.1, 0.7, SIZE)
  drawn = np.round(noise(goal, l, u, keys), 9)
  expected = distribution(drawn.size)
  assert stats.ks_2samp(drawn.reshape(-1), expected).pvalue > 0.01
  share = np.mean(np.abs(drawn) > 1 - 1e-9)
  assert share == pytest.approx(np.mean(np.abs(expected) > 1 - 1e-9), abs=0.02)
  # Variables are drawn apart.
  assert np.abs(np.corrcoef(drawn.T) - np.eye(SIZE)).max() < 0.1


@pytest.mark.parametrize("goal", [Normal(), Uniform()], ids=str)
def test_an_examples_sample_is_its_keys(goal, float64):
  """The same key gives the same noise, in any batch and any box."""
  small = noise(goal, LOWER, LOWER + 0.1, KEYS)
  for i in range(BATCH):
    one = noise(goal, UPPER[i : i + 1] - 1, UPPER[i : i + 1] + 3, KEYS[i:i + 1])
    np.testing.assert_allclose(one[0], small[i], atol=1e-9)


@pytest.mark.parametrize("goal", [Normal(), PGD(1), MIFGSM(restarts=2)],
                         ids=str)
def test_without_keys_the_error_says_what_is_missing(goal):
  with pytest.raises(ValueError, match="draws random numbers; give its Con"):
    abstract(goal, keys=None)
