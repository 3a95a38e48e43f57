"""Branch and bound in the cascade: verdicts of a MILP, appended as they come."""

import itertools
import os

import numpy as np
import pytest
import scipy.optimize

import diffai_jax as dj
from diffai_jax.branching import Found
from diffai_jax.check import __main__ as checker
from diffai_jax.data import Examples
from diffai_jax.storage.journal import Journal
from diffai_jax.verification import certification, searching

METHODS = ("Box", "CROWN_IBP", "BranchAndBound(60)")
BRANCHING = METHODS[-1]
EPSILON = np.float32(0.2)
_COUNT, _SEED = 12, 10


@pytest.fixture(scope="module")
def case():
  """A network with one hidden layer, and images that it mostly gets right."""
  rng = np.random.default_rng(_SEED)
  network = dj.nn.Sequential([dj.nn.Linear(9), dj.nn.ReLU(), dj.nn.Linear(3)])
  params = {
      f"layers_{n}": {
          "kernel": rng.normal(size=(a, b)).astype(np.float32),
          "bias": rng.normal(size=b).astype(np.float32) / 2,
      }
      for n, (a, b) in ((0, (3, 9)), (2, (9, 3)))
  }
  images = rng.uniform(size=(_COUNT, 3)).astype(np.float32)
  # No class is likelier than others.
  params["layers_2"]["bias"] -= run(params, images).mean(axis=0)
  labels = run(params, images).argmax(axis=1).astype(np.int32)
  labels[0] = (labels[0] + 1) % 3
  return network, params, images, labels


def run(params, x):
  first, last = params["layers_0"], params["layers_2"]
  h = np.maximum(x @ first["kernel"] + first["bias"], 0)
  return h @ last["kernel"] + last["bias"]


def largest(params, low, high, row):
  """The largest ⟨row, f(x)⟩ in a box: one LP for each pattern of 9 signs."""
  first, last = params["layers_0"], params["layers_2"]
  kernel, bias = first["kernel"].astype(float), first["bias"].astype(float)
  weight = last["kernel"] @ row
  middle, reach = (low + high) / 2 @ kernel + bias, (high - low) / 2 @ abs(kernel)
  choices = [
      [s for s in (0, 1) if (m + r > 0 if s else m - r < 0)]
      for m, r in zip(middle, reach)
  ]
  best = -np.inf
  for signs in map(np.array, itertools.product(*choices)):
    sides = np.where(signs, -1, 1)  # sides·(x·kernel + bias) ≤ 0.
    found = scipy.optimize.linprog(
        -kernel @ (weight * signs), A_ub=(kernel * sides).T, b_ub=-bias * sides,
        bounds=np.stack([low, high], 1),
    )
    if found.status == 0:
      best = max(best, -found.fun + bias @ (weight * signs))
  return best + last["bias"] @ row


def certified(case, path, seen=None, proofs=None):
  """The certification, with a journal at a path."""
  network, params, images, labels = case
  journal = Journal(path, "this")
  try:
    return certification.certify(
        network, params, Examples(images, labels), dj.Linf(EPSILON),
        methods=METHODS, attack=certification.Attack(steps=2), journal=journal,
        status=lambda phase, text: seen is None or seen.append((phase, text)),
        proofs=proofs,
    )
  finally:
    journal.close()


@pytest.fixture(scope="module")
def found(case, tmp_path_factory):
  """The certification, and the journal that it left."""
  path = str(tmp_path_factory.mktemp("search") / "journal")
  seen = []
  return certified(case, path, seen), path, seen


def test_everything_is_decided_as_by_enumeration(case, found):
  """Each image is either verified or has a point, and rightly."""
  _, params, images, labels = case
  result, _, seen = found
  verified = result.verified[BRANCHING]
  assert result.asked[BRANCHING] and not result.failed
  assert np.array_equal(verified, ~result.falsified)
  eye = np.eye(3)
  for image, label, proved, margin in zip(
      images, labels, verified, result.margins[BRANCHING]
  ):
    low, high = (np.clip(image + e, 0, 1) for e in (-EPSILON, EPSILON))
    worst = max(
        largest(params, low, high, eye[k] - eye[label])
        for k in range(3) if k != label
    )
    assert proved == (worst < 0)
    assert margin <= -worst + 1e-5 and proved == (margin > 0)
  # Some only by splitting, some only by its own attack.
  searched = result.subdomains[BRANCHING] > 0
  assert np.any(searched & verified)
  assert np.any(result.falsified & result.attacked_correct)
  assert seen and seen[-1][0] == BRANCHING and "subdomains" in seen[-1][1]


def test_points_are_in_the_region_and_wrong(case, found):
  _, params, images, labels = case
  result, _, _ = found
  assert list(result.counterexamples) == np.flatnonzero(result.falsified).tolist()
  for number, point in result.counterexamples.items():
    assert np.all(abs(point - images[number]) <= EPSILON * (1 + 1e-6))
    assert np.all((point >= 0) & (point <= 1))
    assert run(params, point[None].astype(float)).argmax() != labels[number]


def test_what_is_proved_before_is_not_searched(found):
  result, _, _ = found
  before = result.verified["Box"] | result.verified["CROWN_IBP"]
  assert np.any(before) and np.all(result.verified[BRANCHING][before])
  assert not result.subdomains[BRANCHING][before].any()
  assert np.array_equal(
      result.margins[BRANCHING][before],
      np.maximum(*(result.margins[m] for m in METHODS[:2]))[before],
  )
  open_ = ~before & result.attacked_correct
  assert result.asked[BRANCHING] == open_.sum()


def test_a_killed_search_goes_on_with_what_is_left(case, found, monkeypatch):
  """With the whole journal nothing is searched; with less, the rest alone."""
  result, path, _ = found
  with open(path, "rb") as file:
    lines = file.read().splitlines(keepends=True)
  asked = []

  def search(graph, images, region, spec, settings, **_):
    asked.append(len(images))
    none = np.zeros(len(images), bool)
    return Found(
        none, none, np.ones(len(images), np.float32), np.zeros_like(images),
        np.zeros(len(images)), np.zeros(len(images), int),
    )

  monkeypatch.setattr(searching, "search", search)
  again = certified(case, path)
  assert not asked
  assert np.array_equal(again.verified[BRANCHING], result.verified[BRANCHING])
  assert np.array_equal(again.wrong_points, result.wrong_points)
  shorter = path + "_killed"
  searched = f'"phase":"{BRANCHING}"'.encode()
  last = [number for number, line in enumerate(lines) if searched in line][-1]
  with open(shorter, "wb") as file:
    file.writelines(lines[:last])
  again = certified(case, shorter)
  assert len(asked) == 1 and 0 < asked[0] < result.asked[BRANCHING]
  left = result.verified[BRANCHING] & ~again.verified[BRANCHING]
  assert left.sum() <= asked[0]
  assert not np.any(again.verified[BRANCHING] & ~result.verified[BRANCHING])


def test_each_verified_image_has_a_proof(case, found, tmp_path):
  """Also those that other methods proved; of the weights that are saved."""
  result, _, _ = found
  folder = os.fspath(tmp_path / "proofs")
  again = certified(case, os.fspath(tmp_path / "journal"), proofs=folder)
  assert np.array_equal(again.verified[BRANCHING], result.verified[BRANCHING])
  certification.save(again, os.fspath(tmp_path), {}, case[1])
  numbers = np.flatnonzero(again.verified[BRANCHING])
  assert sorted(os.listdir(folder)) == sorted(f"{n}.npz" for n in numbers)
  for number in numbers:
    _, worst, _ = checker.check(
        os.path.join(folder, f"{number}.npz"), tmp_path / "network.npz"
    )
    assert -worst >= again.margins[BRANCHING][number] - 1e-4


def test_files_say_how_long_each_image_took(case, found, tmp_path):
  network, params, _, _ = case
  del network
  result, _, _ = found
  certification.save(result, os.fspath(tmp_path), {}, params)
  arrays = certification.load_arrays(os.fspath(tmp_path))
  searched = arrays[f"subdomains_{BRANCHING}"] > 0
  assert np.all(arrays[f"seconds_{BRANCHING}"][searched] > 0)
  assert len(arrays["counterexample_image"]) == result.falsified.sum()


def test_it_is_no_method_of_one_program(case):
  network, params, images, labels = case
  with pytest.raises(ValueError, match="by a search.*take another method here"):
    dj.largest_epsilon(
        (network, {"params": params}), images, labels, "BranchAndBound(1)"
    )
