"""Lists of attacks: each on what is left, and what is kept of what they find."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax import nn
from diffai_jax.attacks import stepwise
from diffai_jax.regions import contains
from diffai_jax.regions.membership import of_rows
from diffai_jax.storage.journal import Journal
from diffai_jax.types import UsageError
from diffai_jax.verification import (
    attacking,
    certification,
    measuring,
    program_cache,
)

COUNT, EPSILON = 24, 0.12
ATTACKS = ("MIFGSM(1, 0.3)", "PGD(2, restarts=2)", "APGD(8, restarts=2)")


@pytest.fixture(scope="module")
def case():
  """A network on which stronger attacks find more, and what it says."""
  rng = np.random.default_rng(0)
  network = nn.Sequential([nn.Linear(16), nn.ReLU(), nn.Linear(3)])
  images = rng.integers(0, 256, (COUNT, 6), dtype=np.uint8)
  x = images / np.float32(255)
  params = jax.tree.map(
      lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
      jax.eval_shape(network.init, jax.random.key(0), x)["params"],
  )
  logits = network.apply({"params": params}, x)
  params["layers_2"]["bias"] -= logits.mean(axis=0)
  labels = np.array(network.apply({"params": params}, x).argmax(axis=1))
  labels[::6] = (labels[::6] + 1) % 3
  return (network, {"params": params}), images, labels


@pytest.fixture(scope="module")
def found(case):
  return dj.certify(*case, dj.Linf(EPSILON), ["Box"], attacks=ATTACKS)


def test_each_is_tried_on_what_is_left(case, found):
  """And nothing is broken twice; the first is alone what it is in a list."""
  correct = found.predictions == found.labels
  assert list(found.broken) == list(ATTACKS)
  broken = np.array(list(found.broken.values()))
  assert np.all(broken.sum(axis=1) > 0) and np.all(broken.sum(axis=0) <= 1)
  np.testing.assert_array_equal(
      found.attacked_correct, correct & ~broken.any(axis=0)
  )
  assert found.attacked_correct.any() and not np.any(broken & ~correct)
  standing = correct.sum() - np.cumsum(broken.sum(axis=1))
  assert found.summary()["attacks"] == {
      name: {"broken": int(one.sum()), "standing": int(left)}
      for name, one, left in zip(ATTACKS, broken, standing)
  }
  assert set(found.seconds) == {
      "standard", "attack", "Box", *(f"attack {name}" for name in ATTACKS)
  }
  assert found.seconds["attack"] == pytest.approx(sum(
      found.seconds[f"attack {name}"] for name in ATTACKS
  ))
  alone = dj.certify(*case, dj.Linf(EPSILON), (), attacks=ATTACKS[:1])
  np.testing.assert_array_equal(alone.broken[ATTACKS[0]], broken[0])
  assert set(alone.seconds) == {"standard", "attack"}


def test_counterexamples_are_in_the_region_and_wrong(case, found):
  """As stored, without any tolerance; also of images that were never right."""
  (network, variables), images, labels = case
  np.testing.assert_array_equal(found.falsified, ~found.attacked_correct)
  assert list(found.counterexamples) == list(np.flatnonzero(found.falsified))
  points = found.wrong_points
  x = images[found.falsified] / np.float32(255)
  assert points.dtype == np.float32
  distance = np.abs(points.astype(np.float64) - x.astype(np.float64))
  assert distance.max() <= EPSILON and points.min() >= 0 and points.max() <= 1
  assert contains(dj.Linf(EPSILON), points, x).all()
  logits = np.asarray(jax.jit(network.apply)(variables, points))
  assert np.all(logits.argmax(axis=1) != labels[found.falsified])
  wrong = found.predictions != labels
  np.testing.assert_array_equal(
      points[wrong[found.falsified]], images[wrong] / np.float32(255)
  )


def test_attacks_may_be_objects_and_replace_the_other_argument(case):
  by_object = dj.certify(
      *case, dj.Linf(EPSILON), (), attacks=[dj.attacks.MIFGSM(1, 0.3)]
  )
  assert list(by_object.broken) == ["MIFGSM(1, 0.3)"]
  for none in ({"attacks": ()}, {"attack": None}):
    bare = dj.certify(*case, dj.Linf(EPSILON), (), **none)
    assert bare.broken == {} and bare.summary()["attacks"] == {}
    np.testing.assert_array_equal(
        bare.attacked_correct, bare.predictions == bare.labels
    )


@pytest.mark.parametrize("region", [
    dj.Linf(np.linspace(0, 0.3, COUNT)), dj.L2(0.3), "bounds",
], ids=["by example", "L2", "bounds"])
def test_in_every_region(case, region):
  """Points are within the numbers that were given; fixed inputs stay so."""
  (network, variables), images, labels = case
  x = images / np.float32(255)
  fixed = np.arange(6) % 2 == 0
  if region == "bounds":
    region = dj.Bounds(np.where(fixed, x, 0.0), np.where(fixed, x, 1.0))
  found = dj.certify(
      (network, variables), x, labels, region, (), attacks=["APGD(4)"]
  )
  assert found.broken["APGD(4)"].any()
  points = found.wrong_points
  rows = of_rows(region, x.shape, found.falsified)
  assert contains(rows, points, x[found.falsified]).all()
  if isinstance(region, dj.Bounds):
    np.testing.assert_array_equal(
        points[:, fixed], x[found.falsified][:, fixed]
    )


def test_what_is_not_wrong_or_not_inside_does_not_count(case, monkeypatch):
  """An attack that leaves the region, or only says that it found something."""
  (network, variables), images, labels = case
  logits = jax.jit(network.apply)(variables, images / np.float32(255))
  correct = np.asarray(logits).argmax(1) == labels

  def certify():
    return dj.certify(*case, dj.Linf(1e-6), (), attacks=["APGD(4)"])

  assert not certify().broken["APGD(4)"].any()
  far = lambda self, points: points + 1.0
  monkeypatch.setattr(stepwise.Problem, "project", far)
  certification_of = attacking.MeasureAttack.end
  monkeypatch.setattr(
      attacking.MeasureAttack, "end",
      lambda self, *args: certification_of(self, *args) | {
          "correct": jnp.zeros(args[1].labels.shape, bool)
      },
  )
  program_cache.forget()
  found = certify()
  program_cache.forget()
  assert not found.broken["APGD(4)"].any()
  np.testing.assert_array_equal(found.attacked_correct, correct)


def test_one_that_fails_leaves_the_others(case, found, monkeypatch):
  """No attacked accuracy is told then."""
  compile_measure = measuring.compile_measure

  def failing(phase, *args):
    if phase == f"attack {ATTACKS[1]}":
      raise UsageError("no memory")
    return compile_measure(phase, *args)

  monkeypatch.setattr(measuring, "compile_measure", failing)
  less = dj.certify(*case, dj.Linf(EPSILON), ["Box"], attacks=ATTACKS)
  assert less.failed == {f"attack {ATTACKS[1]}": "no memory"}
  assert less.summary()["attacked_accuracy"] is None
  assert not less.broken[ATTACKS[1]].any()
  np.testing.assert_array_equal(less.broken[ATTACKS[0]], found.broken[ATTACKS[0]])
  np.testing.assert_array_equal(less.verified["Box"], found.verified["Box"])


def test_killed_after_any_block_it_goes_on(case, found, tmp_path):
  """The same results, and no image attacked twice by one attack."""
  (network, variables), images, labels = case
  path, blocks = str(tmp_path / "blocks"), []

  class Killed(Exception):
    pass

  class Killing(Journal):

    def append(self, phase, batch, rows, arrays, seconds):
      super().append(phase, batch, rows, arrays, seconds)
      blocks.append((phase, tuple(rows)))
      raise Killed

  again = None
  while again is None:
    journal = Killing(path, "this")
    try:
      again = certification.certify(
          network, variables["params"],
          certification.Examples(images, labels), dj.Linf(EPSILON),
          methods=["Box"], attacks=ATTACKS, journal=journal,
      )
    except Killed:
      pass
    finally:
      journal.close()
  assert len(blocks) == len(set(blocks)) >= 1 + 2 * len(ATTACKS) + 1
  for name, value in dataclasses.asdict(found).items():
    if name != "seconds":
      np.testing.assert_equal(getattr(again, name), value)
