"""Certification: every figure against what it claims, one image at a time."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import layers

from diffai_jax import losses, networks
from diffai_jax.attacks import mi_fgsm
from diffai_jax.data import Examples
from diffai_jax.domains import box, correlated_box
from diffai_jax.regions import Linf, Spec
from diffai_jax.storage import journal
from diffai_jax.types import Mode, UsageError
from diffai_jax.verification import (
    certification,
    measuring,
    program_cache,
)

EPSILON = 0.03
WIDE = 0.5  # At which the attack breaks some that are classified correctly.
ATTACK = certification.Attack(steps=5)


@pytest.fixture(scope="module")
def case():
  """A network on 8×8 images, and labels that it mostly agrees with."""
  rng = np.random.default_rng(0)
  network = networks.create("ConvMed", 10)
  images = rng.integers(0, 256, (23, 8, 8, 1), dtype=np.uint8)
  x = jnp.asarray(images / np.float32(255))
  params = jax.jit(network.init)(jax.random.key(0), x)["params"]
  layers(params)[-1]["bias"] = jnp.zeros(10).at[3].set(0.02)
  logits = jax.jit(network.apply)({"params": params}, x)
  labels = np.asarray(logits.argmax(axis=1)).astype(np.int32)
  labels[::5] = (labels[::5] + 1) % 10
  return network, params, Examples(images, labels), np.asarray(logits)


@pytest.fixture(scope="module")
def fragile(case):
  """The same without the bias that keeps the classes apart; one label wrong."""
  network, params, examples, _ = case
  params = jax.tree.map(lambda w: w, params)
  layers(params)[-1]["bias"] = jnp.zeros(10)
  x = jnp.asarray(examples.images / np.float32(255))
  logits = jax.jit(network.apply)({"params": params}, x)
  labels = np.asarray(logits.argmax(axis=1)).astype(np.int32)
  labels[4] = (labels[4] + 1) % 10
  return network, params, Examples(examples.images, labels)


@pytest.fixture(scope="module")
def found(case):
  network, params, examples, _ = case
  return certification.certify(
      network, params, examples, Linf(EPSILON), attack=ATTACK
  )


def test_predictions_and_standard_accuracy(case, found):
  _, _, examples, logits = case
  np.testing.assert_array_equal(found.predictions, logits.argmax(axis=1))
  accuracy = np.mean(logits.argmax(axis=1) == examples.labels)
  assert found.summary()["standard_accuracy"] == pytest.approx(accuracy)
  assert 0 < accuracy < 1


@pytest.mark.parametrize("domain, make", [
    ("Box", box), ("HBox", correlated_box),
])
def test_margins_are_those_of_the_clipped_ball(case, found, domain, make):
  network, params, examples, _ = case
  x = examples.images / np.float32(255)
  low, high = np.clip(x - EPSILON, 0, 1), np.clip(x + EPSILON, 0, 1)
  element = make(jnp.asarray((low + high) / 2), jnp.asarray((high - low) / 2))
  output = jax.jit(lambda e: network.apply(
      {"params": params}, e, Mode.CERTIFY
  ))(element)
  margin = losses.margins(output, jnp.asarray(examples.labels))
  expected = losses.worst_margin(margin, jnp.asarray(examples.labels))
  np.testing.assert_allclose(found.margins[domain], expected, atol=1e-3)
  correct = found.predictions == examples.labels
  np.testing.assert_array_equal(
      found.verified[domain], correct & (found.margins[domain] > 0)
  )


def test_verified_images_resist_and_accuracies_are_ordered(case, found):
  """verified ⊆ attacked ⊆ correct; HBox proves what Box proves."""
  correct = found.predictions == found.labels
  assert np.all(found.attacked_correct <= correct)
  for verified in found.verified.values():
    assert np.all(verified <= found.attacked_correct)
  assert np.all(found.verified["Box"] <= found.verified["HBox"])
  assert np.all(found.margins["HBox"] >= found.margins["Box"] - 1e-4)
  assert 0 < found.verified["HBox"].sum() < found.attacked_correct.sum() + 1


def test_no_sampled_point_is_below_a_margin(case, found):
  network, params, examples, _ = case
  rng = np.random.default_rng(1)
  run = jax.jit(lambda x: network.apply({"params": params}, x))
  x = examples.images / np.float32(255)
  rows = np.arange(len(x))
  for _ in range(50):
    noise = np.sign(rng.uniform(-1, 1, x.shape)) * EPSILON
    logits = np.asarray(run(jnp.asarray(np.clip(x + noise, 0, 1), "float32")))
    others = logits.copy()
    others[rows, examples.labels] = -np.inf
    margin = logits[rows, examples.labels] - others.max(axis=1)
    for bound in found.margins.values():
      assert np.all(margin >= bound)


def test_results_do_not_depend_on_the_memory_budget(case, found):
  network, params, examples, _ = case
  tight = certification.certify(
      network, params, examples, Linf(EPSILON), methods=("HBox",), attack=ATTACK,
      memory_mb=2,
  )
  np.testing.assert_array_equal(tight.predictions, found.predictions)
  np.testing.assert_allclose(
      tight.margins["HBox"], found.margins["HBox"], atol=1e-5
  )


def test_a_budget_that_one_image_exceeds_fails_that_domain(case):
  network, params, examples, _ = case
  big = Examples(np.zeros((2, 64, 64, 1), np.uint8), np.zeros(2, np.int32))
  variables = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1))
  )
  params = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), variables)
  found = certification.certify(
      network, params["params"], big, Linf(EPSILON), methods=("HBox",),
      attack=certification.Attack(steps=0), memory_mb=16,
  )
  assert set(found.failed) == {"HBox"} and not found.verified
  assert re.match(r"HBox needs \d+ MiB for one example", found.failed["HBox"])


def test_nan_weights_verify_nothing(case):
  network, params, examples, _ = case
  broken = jax.tree.map(lambda w: w * jnp.nan, params)
  found = certification.certify(
      network, broken, examples, Linf(EPSILON), methods=("Box",), attack=ATTACK
  )
  summary = found.summary()
  assert summary["standard_accuracy"] == 0
  assert summary["attacked_accuracy"] == 0
  assert summary["verified_accuracy"] == {"Box": 0}


def test_files_hold_what_was_found(case, found, tmp_path):
  about = {"network": "ConvMed", "dataset": "noise", "epsilon": EPSILON}
  certification.save(found, str(tmp_path), about, case[1])
  summary = certification.load_summary(str(tmp_path))
  assert summary.items() >= (about | found.summary()).items()
  text = (tmp_path / "certification.json").read_text()
  assert json.loads(text).items() >= summary.items()
  arrays = certification.load_arrays(str(tmp_path))
  assert set(arrays) == {
      "index", "label", "prediction", "attacked_correct",
      "counterexample_index", "counterexample_image",
      "verified_Box", "margin_Box", "verified_HBox", "margin_HBox",
      "broken_MIFGSM(5, 0.4)",
  }
  np.testing.assert_array_equal(arrays["index"], np.arange(23))
  for domain in ("Box", "HBox"):
    mean = arrays[f"verified_{domain}"].mean()
    assert summary["verified_accuracy"][domain] == pytest.approx(mean)


def test_the_attack_takes_all_its_steps(fragile):
  """Step by step it finds what MI-FGSM finds in one program."""
  network, params, examples = fragile
  # It reaches the ball's end with its last step, and needs all of them.
  attack, epsilon = certification.Attack(steps=3, radius=1.0), 0.1
  found = certification.certify(
      network, params, examples, Linf(epsilon), attack=attack, methods=()
  )
  x = jnp.asarray(examples.images / np.float32(255))
  forward = lambda x: network.apply({"params": params}, x)
  points = jax.jit(lambda x: mi_fgsm(
      forward, x, jnp.clip(x - epsilon, 0, 1), jnp.clip(x + epsilon, 0, 1),
      examples.labels, step_size=attack.radius * epsilon / attack.steps,
      steps=attack.steps, momentum=attack.momentum,
  ))(x)
  wrong = jax.jit(forward)(points).argmax(axis=1) != examples.labels
  np.testing.assert_array_equal(found.falsified, wrong)
  np.testing.assert_allclose(
      np.stack(list(found.counterexamples.values())), points[wrong], atol=1e-5
  )


def test_counterexamples_are_in_the_ball_and_wrong(fragile):
  """Each example that is not robust has one: the image, or an attacked one."""
  network, params, examples = fragile
  found = certification.certify(
      network, params, examples, Linf(WIDE), attack=ATTACK, methods=()
  )
  np.testing.assert_array_equal(found.falsified, ~found.attacked_correct)
  assert found.falsified.sum() > np.sum(found.predictions != found.labels)
  assert list(found.counterexamples) == list(np.flatnonzero(found.falsified))
  points = np.stack(list(found.counterexamples.values()))
  assert points.dtype == np.float32 and points.min() >= 0 and points.max() <= 1
  images = examples.images[found.falsified] / np.float32(255)
  assert np.abs(points - images).max() <= WIDE * (1 + 1e-5)
  logits = jax.jit(network.apply)({"params": params}, points)
  assert np.all(logits.argmax(axis=1) != examples.labels[found.falsified])


def test_the_certified_network_comes_back_bit_for_bit(case, found, tmp_path):
  """Also from weights of 16 bits, which were certified as those of 32."""
  network, params, examples, _ = case
  certification.save(found, str(tmp_path), {}, params)
  loaded = certification.load_network(str(tmp_path))
  _assert_same_weights(loaded, params)
  again = certification.certify(
      network, loaded, examples, Linf(EPSILON), attack=ATTACK
  )
  for domain, margin in found.margins.items():
    np.testing.assert_array_equal(again.margins[domain], margin)
  half = jax.tree.map(lambda w: jnp.asarray(w, jnp.bfloat16), params)
  certification.save(found, str(tmp_path), {}, half)
  wide = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), half)
  _assert_same_weights(certification.load_network(str(tmp_path)), wide)


def _assert_same_weights(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    other = np.asarray(other)
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_weights_are_certified_in_float32(case, dtype):
  """What is proved is proved of the same numbers in float32."""
  network, params, examples, _ = case
  half = jax.tree.map(lambda w: jnp.asarray(w, dtype), params)
  wide = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), half)
  narrow, right = (
      certification.certify(
          network, weights, examples, Linf(EPSILON), methods=("Box",), attack=ATTACK
      )
      for weights in (half, wide)
  )
  assert narrow.margins["Box"].dtype == np.float32
  np.testing.assert_array_equal(narrow.margins["Box"], right.margins["Box"])


def test_other_precisions_around_the_call_change_nothing(case, found):
  network, params, examples, _ = case
  with jax.default_matmul_precision("bfloat16"):
    inside = certification.certify(
        network, params, examples, Linf(EPSILON), methods=("Box",), attack=ATTACK
    )
  np.testing.assert_array_equal(inside.margins["Box"], found.margins["Box"])


def test_a_method_that_fails_leaves_the_others(case, found, monkeypatch):
  """Out of memory as XLA says it, while HBox and while the attack run."""
  network, params, examples, _ = case
  run = measuring.run_in_batches

  def certify(broken: tuple[str, ...]):
    phases = iter(("standard", "attack", "Box", "HBox"))

    def failing(*args):
      if next(phases) in broken:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory\nmore")
      return run(*args)

    monkeypatch.setattr(measuring, "run_in_batches", failing)
    return certification.certify(
        network, params, examples, Linf(EPSILON), attack=ATTACK
    )

  one = certify(("HBox",))
  assert list(one.failed) == ["HBox"] and "\n" not in one.failed["HBox"]
  assert "RESOURCE_EXHAUSTED: no memory" in one.failed["HBox"]
  assert set(one.verified) == set(one.margins) == {"Box"}
  np.testing.assert_array_equal(one.margins["Box"], found.margins["Box"])
  assert set(one.summary()["verified_accuracy"]) == {"Box"}
  two = certify(("attack", "Box"))
  assert set(two.failed) == {"attack", "Box"}
  assert two.summary()["attacked_accuracy"] is None
  np.testing.assert_array_equal(two.margins["HBox"], found.margins["HBox"])
  with pytest.raises(UsageError, match="cannot be run.*RESOURCE_EXHAUSTED"):
    certify(("standard",))


def test_proofs_that_the_attack_refutes_are_none(
    fragile, monkeypatch, request
):
  """A domain that claims what is false gives no results at all."""
  network, params, examples = fragile
  monkeypatch.setattr(Spec, "proved", lambda _, b: jnp.ones(len(b), bool))
  monkeypatch.setattr(Spec, "margins", lambda _, b: jnp.ones(len(b)))
  program_cache.forget()
  request.addfinalizer(program_cache.forget)
  lying = certification.certify(
      network, params, examples, Linf(WIDE), methods=("Box",), attack=ATTACK
  )
  assert "attack broke" in lying.failed["Box"] and not lying.verified


def test_a_killed_certification_goes_on_where_it_was(case, found, tmp_path):
  """After any number of blocks: the same bits, and nothing measured twice."""
  network, params, examples, _ = case
  path = str(tmp_path / "blocks")
  measured = []

  class Killed(Exception):
    pass

  class Killing(journal.Journal):
    """Dies after two blocks more."""

    def append(self, phase, batch, rows, arrays, seconds):
      super().append(phase, batch, rows, arrays, seconds)
      measured.append((phase, tuple(rows)))
      if len(measured) % 2 == 0:
        raise Killed

  def certify(kind=Killing):
    blocks = kind(path, "this")
    try:
      return certification.certify(
          network, params, examples, Linf(EPSILON), attack=ATTACK, memory_mb=2,
          skip_decided=True, journal=blocks,
      )
    finally:
      blocks.close()

  def killed_or_found():
    try:
      return certify()
    except Killed:
      return None

  results = None
  while results is None:
    results = killed_or_found()
  assert len(measured) == len(set(measured)) > 6
  whole = certification.certify(
      network, params, examples, Linf(EPSILON), attack=ATTACK, memory_mb=2,
      skip_decided=True,
  )
  for name, value in dataclasses.asdict(whole).items():
    if not name.startswith("seconds"):
      np.testing.assert_equal(getattr(results, name), value)


def test_decided_images_are_not_sent_to_the_dearer_domain(case, found):
  """What is verified stays; HBox is asked about what is open, and no more."""
  network, params, examples, _ = case
  done = []
  quick = certification.certify(
      network, params, examples, Linf(EPSILON), attack=ATTACK, skip_decided=True,
      methods=("Box", "HBox", "CROWN_IBP"),
      progress=lambda phase, count: done.append((phase, count)),
  )
  is_open = found.attacked_correct & ~found.verified["Box"]
  left = is_open & ~found.verified["HBox"]
  assert left.sum() < is_open.sum() < len(examples)
  assert found.asked == {"Box": 23, "HBox": 23}
  assert quick.asked == {
      "Box": 23, "HBox": is_open.sum(), "CROWN_IBP": left.sum(),
  }
  last = quick.verified["CROWN_IBP"], quick.margins["CROWN_IBP"]
  assert np.all(last[0] >= quick.verified["HBox"])
  np.testing.assert_array_equal(last[1][~left], quick.margins["HBox"][~left])
  for domain, verified in found.verified.items():
    np.testing.assert_array_equal(quick.verified[domain], verified)
  np.testing.assert_array_equal(
      quick.margins["HBox"][~is_open], quick.margins["Box"][~is_open]
  )
  np.testing.assert_allclose(
      quick.margins["HBox"][is_open], found.margins["HBox"][is_open], atol=1e-5
  )
  assert all((phase, 23) in done for phase in ("attack", "Box", "HBox"))


def test_without_box_nothing_is_known_of_what_is_not_asked(case, found):
  """The dearer domain alone; and none that is open asks for nothing at all."""
  network, params, examples, _ = case
  quick = certification.certify(
      network, params, examples, Linf(EPSILON), attack=ATTACK, methods=("HBox",),
      skip_decided=True,
  )
  assert quick.asked == {"HBox": found.attacked_correct.sum()}
  np.testing.assert_array_equal(
      quick.verified["HBox"], found.verified["HBox"]
  )
  assert np.all(quick.margins["HBox"][~found.attacked_correct] == -np.inf)
  wrong = Examples(examples.images, (found.predictions + 1) % 10)
  none = certification.certify(
      network, params, wrong, Linf(EPSILON), attack=ATTACK, skip_decided=True,
      methods=("HBox",),
  )
  assert none.asked == {"HBox": 0} and not none.verified["HBox"].any()
