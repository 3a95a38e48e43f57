"""Certification: every figure against what it claims, one image at a time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from weights import layers

from diffai_jax import certification, losses, networks
from diffai_jax.data import Examples
from diffai_jax.domains import box, correlated_box
from diffai_jax.types import Mode, UsageError

EPSILON = 0.03
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
def found(case):
  network, params, examples, _ = case
  return certification.certify(
      network, params, examples, EPSILON, attack=ATTACK
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
      network, params, examples, EPSILON, domains=("HBox",), attack=ATTACK,
      memory_mb=2,
  )
  np.testing.assert_array_equal(tight.predictions, found.predictions)
  np.testing.assert_allclose(
      tight.margins["HBox"], found.margins["HBox"], atol=1e-5
  )


def test_a_budget_that_one_image_exceeds_is_refused(case):
  network, params, examples, _ = case
  big = Examples(np.zeros((2, 64, 64, 1), np.uint8), np.zeros(2, np.int32))
  variables = jax.eval_shape(
      network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1))
  )
  params = jax.tree.map(lambda v: np.zeros(v.shape, v.dtype), variables)
  with pytest.raises(UsageError, match="HBox needs .* MiB for one example"):
    certification.certify(
        network, params["params"], big, EPSILON, domains=("HBox",),
        attack=certification.Attack(steps=0), memory_mb=16,
    )


def test_nan_weights_verify_nothing(case):
  network, params, examples, _ = case
  broken = jax.tree.map(lambda w: w * jnp.nan, params)
  found = certification.certify(
      network, broken, examples, EPSILON, domains=("Box",), attack=ATTACK
  )
  summary = found.summary()
  assert summary["standard_accuracy"] == 0
  assert summary["attacked_accuracy"] == 0
  assert summary["verified_accuracy"] == {"Box": 0}


def test_files_hold_what_was_found(found, tmp_path):
  about = {"network": "ConvMed", "dataset": "noise", "epsilon": EPSILON}
  certification.save(found, str(tmp_path), about)
  summary = json.loads((tmp_path / "certification.json").read_text())
  assert summary == about | found.summary()
  assert summary == certification.load_summary(str(tmp_path))
  with np.load(tmp_path / "certification.npz") as arrays:
    assert set(arrays) == {
        "index", "label", "prediction", "attacked_correct",
        "verified_Box", "margin_Box", "verified_HBox", "margin_HBox",
    }
    np.testing.assert_array_equal(arrays["index"], np.arange(23))
    for domain in ("Box", "HBox"):
      mean = arrays[f"verified_{domain}"].mean()
      assert summary["verified_accuracy"][domain] == pytest.approx(mean)


def test_decided_images_are_not_sent_to_the_dearer_domain(case, found):
  """What is verified stays; HBox is asked about what is open, and no more."""
  network, params, examples, _ = case
  done = []
  quick = certification.certify(
      network, params, examples, EPSILON, attack=ATTACK, skip_decided=True,
      progress=lambda phase, count: done.append((phase, count)),
  )
  is_open = found.attacked_correct & ~found.verified["Box"]
  assert 0 < is_open.sum() < len(examples)
  assert found.asked == {"Box": 23, "HBox": 23}
  assert quick.asked == {"Box": 23, "HBox": is_open.sum()}
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
      network, params, examples, EPSILON, attack=ATTACK, domains=("HBox",),
      skip_decided=True,
  )
  assert quick.asked == {"HBox": found.attacked_correct.sum()}
  np.testing.assert_array_equal(
      quick.verified["HBox"], found.verified["HBox"]
  )
  assert np.all(quick.margins["HBox"][~found.attacked_correct] == -np.inf)
  wrong = Examples(examples.images, (found.predictions + 1) % 10)
  none = certification.certify(
      network, params, wrong, EPSILON, attack=ATTACK, skip_decided=True,
      domains=("HBox",),
  )
  assert none.asked == {"HBox": 0} and not none.verified["HBox"].any()
