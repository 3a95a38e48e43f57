"""APGD against a NumPy run of the paper's algorithm, one example at a time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import attacks
from diffai_jax.attacks import apgd
from diffai_jax.attacks.attack_losses import attack_loss, runners_up
from diffai_jax.regions import L2, Bounds, Linf

RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(6, 8)), RNG.normal(size=8)
OUT = RNG.normal(size=(8, 5))
COUNT = 60


def forward(x):
  return jnp.tanh(x @ WEIGHTS + BIAS) @ OUT


def numpy_loss(name, logits, label, target):
  """Loss and its derivatives by the logits."""
  slope = np.zeros_like(logits)
  if name == "CE":
    towards = label if target is None else target
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    slope += softmax
    slope[towards] -= 1
    sign = 1 if target is None else -1
    return -sign * math.log(softmax[towards]), sign * slope
  order = np.argsort(-logits)
  other = target
  if target is None:
    other = next(k for k in order if k != label)
  bottom = np.zeros_like(logits)
  bottom[order[0]] += 1
  if target is None:
    bottom[order[2]] -= 1
  else:
    bottom[order[2]] -= 0.5
    bottom[order[3]] -= 0.5
  top = np.zeros_like(logits)
  top[label] -= 1
  top[other] += 1
  numerator, denominator = top @ logits, bottom @ logits
  value = numerator / denominator
  return value, (top - value * bottom) / denominator


def numpy_apgd(x, low, high, epsilon, steps, name, label, target):
  """Algorithm 1 in L∞, word by word; all points that are visited."""

  def f(x):
    hidden = np.tanh(x @ WEIGHTS + BIAS)
    value, slope = numpy_loss(name, hidden @ OUT, label, target)
    return value, WEIGHTS @ ((OUT @ slope) * (1 - hidden**2))

  project = lambda x: np.clip(x, low, high)
  shares = [0, 0.22]
  while shares[-1] < 1:
    shares.append(round(
        shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06), 2
    ))
  places = [math.ceil(round(p * steps, 6)) for p in shares]
  eta = 2 * epsilon
  xs, values = [x], [f(x)[0]]
  xs.append(project(x + eta * np.sign(f(x)[1])))
  values.append(f(xs[1])[0])
  x_max = xs[0] if values[0] >= values[1] else xs[1]
  f_max = max(values)
  visited, etas, highest = [*xs], {0: eta}, {0: values[0]}
  running = list(values)  # Of the points when they were evaluated.
  for k in range(1, steps):
    etas[k] = eta
    highest[k] = max(running[: k + 1])
    z = project(xs[k] + eta * np.sign(f(xs[k])[1]))
    moved = project(xs[k] + 0.75 * (z - xs[k]) + 0.25 * (xs[k] - xs[k - 1]))
    visited.append(moved)
    xs.append(moved)
    values.append(f(moved)[0])
    running.append(values[-1])
    if values[k + 1] > f_max:
      x_max, f_max = moved, values[k + 1]
    if k in places:
      before = places[places.index(k) - 1]
      rises = sum(
          values[i + 1] > values[i] for i in range(before, k)
      )
      first = rises < 0.75 * (k - before)
      second = etas[before] == etas[k] and highest[before] == highest[k]
      if first or second:
        eta /= 2
        xs[k + 1], values[k + 1] = x_max, f_max
  return visited


def problem(region, images, labels, dtype=jnp.float64):
  images = jnp.asarray(images, dtype)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.key(1), jnp.arange(len(images))
  )
  return attacks.Problem(forward, images, region, labels, keys, 5)


def cases():
  images = RNG.uniform(0.2, 0.8, (COUNT, 6))
  return images, (np.tanh(images @ WEIGHTS + BIAS) @ OUT).argmax(axis=1)


@pytest.mark.parametrize("attack", [
    attacks.APGD(60), attacks.APGD(23, "DLR"), attacks.APGDTargeted(30),
    attacks.APGDTargeted(30, "CE", 1, 2),
], ids=str)
def test_equals_the_paper_step_for_step(float64, attack):
  """From the same starts; every visited point, through every halving."""
  images, labels = cases()
  epsilon = 0.05
  one = problem(Linf(epsilon), images, labels)
  low, high = map(np.asarray, one.region.bounds(one.images))
  advance = jax.jit(lambda state: attack.advance(one, state))
  state, seen = jax.jit(lambda: attack.begin(one))(), []
  for _ in range(attack.calls(5)):
    seen.append(np.asarray(state.ascent.point))
    state = advance(state)
  seen.append(np.asarray(state.ascent.point))
  assert np.any(np.asarray(state.ascent.step) < 0.2)  # It was halved.
  starts = attack.starts(5)
  assert len(seen) == starts * (attack.steps + 1)
  targets = [None] * starts
  if isinstance(attack, attacks.APGDTargeted):
    targets = np.asarray(runners_up(forward(images), labels, starts)).T
  for start in range(starts):
    first = start * (attack.steps + 1)
    np.testing.assert_allclose(seen[first], one.drawn(start), atol=1e-12)
    for row in range(COUNT):
      target = None if targets[start] is None else targets[start][row]
      visited = numpy_apgd(
          seen[first][row], low[row], high[row], epsilon, attack.steps,
          attack.loss, labels[row], target,
      )
      found = np.stack([seen[first + k][row] for k in range(attack.steps + 1)])
      np.testing.assert_allclose(found, visited, atol=1e-9)


@pytest.mark.parametrize("steps, places", [
    (100, (22, 41, 57, 70, 80, 87, 93, 99)),
    (10, (3, 5, 6, 7, 8, 9)),
    (3, (1, 2)), (1, ()), (0, ()),
])
def test_checkpoints_are_the_papers(steps, places):
  """⌈p_j·steps⌉ for p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
  assert apgd.checkpoints(steps) == places


def test_the_losses_of_few_classes_are_finite(float64):
  """Three logits have no fourth, two no third; equal ones divide by nearly 0."""
  labels, targets = np.array([0, 1]), np.array([1, 0])
  three = np.array([[3.0, 1.0, 0.5], [2.0, 0.0, 1.0]])

  @functools.partial(jax.jit, static_argnums=0)
  def loss(name, logits, towards):
    """Of each example, and the sum's derivatives."""
    each = lambda z: attack_loss(name, z, labels, towards)
    return each(logits), jax.grad(lambda z: each(z).sum())(logits)

  for towards in (None, targets):
    found, _ = loss("DLR", three, towards)
    np.testing.assert_allclose(found, [-2 / 2.5, 2 / 2], rtol=1e-9)
    found, _ = loss("DLR", three[:, :2], towards)
    np.testing.assert_array_equal(found, [-2, 2])
    for name in ("CE", "DLR"):
      for logits in (np.ones((2, 5)), three, 1e30 * three):
        values, slope = loss(name, logits, towards)
        assert np.isfinite(values.sum()) and np.all(np.isfinite(slope))


def test_runners_up_are_the_highest_but_the_label():
  logits = jnp.array([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
  found = runners_up(logits, jnp.array([0, 2]), 2)
  np.testing.assert_array_equal(found, [[2, 1], [3, 1]])
