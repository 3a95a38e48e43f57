"""All attacks that look for a wrong point: where they go, and on what it depends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import attacks
from diffai_jax.regions import L2, Bounds, Linf

RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.normal(size=(6, 8)), RNG.normal(size=8)
OUT = RNG.normal(size=(8, 4))
COUNT = 8
IMAGES = RNG.uniform(0.2, 0.8, (COUNT, 6))
EPSILONS = np.linspace(0.02, 0.2, COUNT)
ATTACKS = (
    attacks.MIFGSM(4, 0.5, restarts=2), attacks.APGD(6, restarts=2),
    attacks.APGDTargeted(5, "DLR", 2, 2),
)
FIXED = np.arange(6) % 3 == 0
REGIONS = {
    "number": Linf(0.1),
    "by example": Linf(EPSILONS),
    "by variable": Linf(np.where(FIXED, 0, 0.15)),
    "bounds": Bounds(
        np.where(FIXED, IMAGES, 0.1), np.where(FIXED, IMAGES, 0.9)
    ),
    "L2": L2(EPSILONS),
}


LOGITS = np.tanh(IMAGES @ WEIGHTS + BIAS) @ OUT
SHIFT = LOGITS.mean(axis=0)  # So that the classes are near each other.
LABELS = (LOGITS - SHIFT).argmax(axis=1)


def forward(x):
  out = jnp.tanh(x @ WEIGHTS.astype(x.dtype) + BIAS.astype(x.dtype))
  return out @ OUT.astype(x.dtype) - SHIFT.astype(x.dtype)


logits_of = jax.jit(forward)


def problem(region, dtype, rows=slice(None), classes=4):
  """Of some rows; the region is of these alone."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
      jax.random.key(1), jnp.arange(COUNT)
  )
  return attacks.Problem(
      lambda x: forward(x)[:, :classes], jnp.asarray(IMAGES, dtype)[rows],
      region, jnp.asarray(LABELS % classes)[rows], keys[rows], classes,
  )


def some(region, dtype):
  """With as many axes as the images, in their type, as certification has it."""
  if isinstance(region, Bounds):
    return Bounds(*(np.asarray(b, dtype) for b in (region.lower, region.upper)))
  epsilon = np.asarray(region.epsilon, dtype)
  shape = {0: (1, 1), 1: (-1, 1)}[epsilon.ndim]
  if epsilon.shape == (6,):
    shape = (1, -1)
  return type(region)(epsilon.reshape(shape))


class Steps:
  """An attack of which each step is a compiled program; counts what it traces."""

  def __init__(self, attack, dtype="float64", classes=4):
    self.attack, self.dtype, self.traced = attack, dtype, 0
    self.classes = classes

    def advance(region, rows, state):
      self.traced += 1
      return attack.advance(self.problem(region, rows), state)

    self.begin = jax.jit(
        lambda region, rows: attack.begin(self.problem(region, rows))
    )
    self.step = jax.jit(advance)
    self.points = jax.jit(attack.points)

  def problem(self, region, rows):
    return problem(region, self.dtype, rows, self.classes)

  def __call__(self, region, rows=np.arange(COUNT)):
    state = self.begin(region, rows)
    for _ in range(self.attack.calls(self.classes)):
      state = self.step(region, rows, state)
    return np.asarray(self.points(state))


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_points_stay_inside_and_are_found(float64, attack):
  """In each region, fixed variables exactly; where it can, it breaks some."""
  broken = 0
  steps = {dtype: Steps(attack, dtype) for dtype in ("float32", "float64")}
  places = [("by variable", "float32"), ("bounds", "float64"), ("L2", "float32")]
  for name, dtype in places[: 3 if attack.steps == 6 else 1]:
    region = some(REGIONS[name], dtype)
    points = steps[dtype](region)
    assert points.dtype == dtype, name
    images = IMAGES.astype(dtype)
    low, high = map(np.asarray, region.bounds(images))
    assert np.all(low <= points) and np.all(points <= high), name
    if name in ("by variable", "bounds"):
      np.testing.assert_array_equal(points[:, FIXED], images[:, FIXED])
    if name == "L2":
      far = np.linalg.norm(np.float64(points) - np.float64(images), axis=1)
      assert np.all(far <= region.epsilon[:, 0])
    logits = np.asarray(logits_of(points))
    broken += np.sum(logits.argmax(axis=1) != LABELS)
  assert broken > COUNT / 4


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_neither_the_batch_nor_another_epsilon_matters(float64, attack):
  """Points of parts are those of all; one program serves every ε."""
  steps = Steps(attack)
  together = steps(Linf(EPSILONS[:, None]))
  for rows in np.split(np.arange(COUNT), 2):
    part = steps(Linf(EPSILONS[rows, None]), rows)
    np.testing.assert_allclose(part, together[rows], atol=1e-9)
  other = steps(Linf(EPSILONS[:, None] / 2))
  assert np.any(other != together) and steps.traced == 2  # Of both sizes.


def test_more_starts_lose_nothing_and_a_found_point_is_kept(float64):
  """What one start breaks, more do, with the same point."""
  region = Linf(np.full((COUNT, 1), 0.04))
  wrong, more_broken = jax.jit(problem(region, "float64").wrong), 0
  for few, many in (
      (attacks.APGD(1), attacks.APGD(1, restarts=8)),
      (attacks.PGD(1, 0.1), attacks.PGD(1, 0.1, 8)),
  ):
    first, more = (Steps(attack)(region) for attack in (few, many))
    broken = [np.asarray(wrong(logits_of(points))) for points in (first, more)]
    np.testing.assert_allclose(
        more[broken[0]], first[broken[0]], atol=1e-12
    )
    more_broken += broken[1].sum() - broken[0].sum()
  assert more_broken > 0


@pytest.mark.parametrize("classes", [2, 3])
def test_networks_of_few_classes(float64, classes):
  """DLR and targets take what there is, and find something."""
  attack = attacks.APGDTargeted(5, "DLR", 1, 3)
  steps = Steps(attack, classes=classes)
  assert attack.starts(classes) == classes - 1
  one = steps.problem(Linf(0.3), np.arange(COUNT))
  wrong = jax.jit(lambda x: one.wrong(one.forward(x)))
  before, after = (
      np.asarray(wrong(x))
      for x in (IMAGES, steps(Linf(0.3)))
  )
  assert np.any(after & ~before)


def test_all_steps_as_one_program(float64):
  region = Linf(0.1)
  attack = attacks.PGD(3, restarts=2)
  whole = jax.jit(
      lambda region: attacks.attacked(attack, problem(region, "float64"))
  )(region)
  np.testing.assert_allclose(whole, Steps(attack)(region), atol=1e-12)


@pytest.mark.parametrize("value, wrong", [(1.0, False), (np.nan, True)])
def test_no_gradient_and_nan_leave_finite_points(float64, value, wrong):
  """A flat network gives no direction, one that is NaN is wrong at once."""
  one = attacks.Problem(
      lambda x: jnp.full((len(x), 3), value).at[:, 0].add(1) + 0 * x[:, :1],
      jnp.asarray(IMAGES), Linf(0.1), jnp.zeros(COUNT, int),
      problem(Linf(0.1), "float64").keys, 3,
  )
  for attack in (attacks.MIFGSM(2), attacks.APGD(2)):

    @jax.jit
    def run():
      state = attack.begin(one)
      for _ in range(2):
        state = attack.advance(one, state)
      points = attack.points(state)
      return points, one.wrong(one.forward(points))

    points, found = run()
    assert np.isfinite(points).all()
    np.testing.assert_array_equal(found, wrong)
