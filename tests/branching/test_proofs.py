"""Proofs and their checker: what is written is accepted, what is wrong is not."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
from jax import lax
import numpy as np
import pytest
import small_networks
from test_search import RADIUS, SETTINGS, ball, problem, spec_of

from diffai_jax import transformers
from diffai_jax.branching import Proofs, search
from diffai_jax.check import __main__ as checker
from diffai_jax.graph import Builder, from_jax
from diffai_jax.regions import L2, Linf
from diffai_jax.types import UsageError

_SEEDS = (31, 35, 39)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """(weights, image, row and offset that are proved, path of the proof)."""
  found = []
  for seed in _SEEDS:
    weights, images, rows, largest = problem(seed)
    graph = small_networks.graph_of(weights)
    proofs = Proofs(graph, ball(images))
    offsets = (-largest - 0.005).astype(np.float32)
    result = search(
        graph, images, ball(images), spec_of(rows, offsets), SETTINGS,
        leaves=proofs,
    )
    for number in np.flatnonzero(result.verified):
      path = tmp_path_factory.mktemp("proofs") / f"{seed}_{number}.npz"
      proofs.write(int(number), path)
      found.append((weights, images[number], rows[number], offsets[number], path))
  return found


def content(path):
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def test_every_proof_is_accepted(written):
  assert len(written) == 2 * len(_SEEDS)
  for *_, path in written:
    leaves, worst, _ = checker.check(path)
    assert leaves == len(content(path)["group"]) and worst < 0
  assert max(checker.check(path)[0] for *_, path in written) > 20


def test_the_bounds_of_its_leaves_hold(written):
  """The checker's bounds of neurons and of leaves against float64 runs."""
  for weights, image, row, offset, path in written[:2]:
    proof = content(path)
    network = checker.Network(json.loads(str(proof["proof"])), proof)
    bounds = network.bounds(proof["lower"][None], proof["upper"][None])
    rng = np.random.default_rng(0)
    points = image + RADIUS * rng.uniform(-1, 1, (5000, 4))
    exact = [(k.astype(float), b.astype(float)) for k, b in weights]
    neurons, outputs = small_networks.run(exact, points)
    low, high = (
        np.concatenate([bounds[n][end][0] for n in sorted(network.first)])
        for end in (0, 1)
    )
    assert np.all((neurons >= low) & (neurons <= high))
    values = outputs @ row + offset
    for leaf, path_of_leaf in enumerate(proof["decisions"]):
      decided = path_of_leaf[path_of_leaf != 0].astype(int)
      inside = np.all(neurons[:, abs(decided) - 1] * np.sign(decided) >= 0, 1)
      bound = checker.check_leaves(
          network, bounds, proof, np.array([leaf]), proof["rows"][0],
          proof["offsets"][0], network.calls and len(network.calls),
      )
      assert np.all(values[inside] <= bound) and bound < 0


def corrupted(proof, rng):
  """The proof with one thing changed, and what; None if it cannot be."""
  kind = rng.choice([
      "leaf", "sign", "neuron", "cut", "alpha", "beta", "bit", "box", "offset",
      "row", "group",
  ])
  proof = {name: array.copy() for name, array in proof.items()}
  leaf = rng.integers(len(proof["group"]))
  if kind == "leaf":
    for name in ("group", "decisions", "alpha", "beta"):
      proof[name] = np.delete(proof[name], leaf, axis=0)
  elif kind in ("sign", "neuron", "cut"):
    path = proof["decisions"][leaf]
    place = rng.integers(max(1, np.count_nonzero(path)))
    path[place] = {
        "sign": -path[place], "neuron": rng.integers(-13, 14), "cut": 0
    }[kind]
  elif kind == "alpha":
    proof["alpha"] = rng.permuted(proof["alpha"], axis=None)
  elif kind == "beta":
    proof["beta"][leaf] *= rng.choice([-1, 0, 10])
  elif kind == "bit":
    name = rng.choice(sorted(n for n in proof if n[0].isdigit()))
    bits = proof[name].reshape(-1).view(np.uint32)
    bits[rng.integers(len(bits))] ^= np.uint32(1 << rng.integers(32))
  elif kind == "box":
    proof["upper"][rng.integers(4)] += rng.choice([0.01, 1, -5, np.nan])
  elif kind == "offset":
    proof["offsets"] += rng.choice([0.002, 0.1, np.nan])
  elif kind == "row":
    proof["rows"] = rng.permuted(proof["rows"], axis=2)
  else:
    proof["group"][leaf] = rng.integers(-1, 2)
  return kind, proof


def test_corrupted_proofs_are_refused_or_true(written, tmp_path):
  """1,000 of them; what is accepted is true of the box and rows that it names."""
  rng = np.random.default_rng(0)
  refused, accepted, largest = set(), set(), {}
  whole = [(item[0], content(item[-1])) for item in written]
  for number in range(1000):
    weights, proof = whole[number % len(whole)]
    kind, proof = corrupted(proof, rng)
    try:
      checker._checked(proof, None)
    except checker.Refused:
      refused.add(kind)
      continue
    except Exception:  # `check` makes a refusal of it.
      refused.add(kind)
      continue
    accepted.add(kind)
    assert kind not in ("leaf", "bit")
    low, high = proof["lower"].astype(float), proof["upper"].astype(float)
    row = proof["rows"][0, 0].astype(float)
    key = *row, *low, *high, id(weights)
    if key not in largest:
      largest[key] = small_networks.largest(weights, low, high, row)
    assert largest[key] + proof["offsets"][0, 0] < 1e-9
  assert refused >= {"leaf", "sign", "neuron", "cut", "bit", "box", "offset"}
  assert "alpha" in accepted | refused and "offset" in accepted


@pytest.mark.parametrize("paths, whole", [
    ([[0, 0]], True), ([], False), ([[1, 0], [-1, 0]], True), ([[1, 0]], False),
    ([[1, 2], [1, -2], [-1, 0]], True), ([[1, 2], [1, -2], [-1, 3]], False),
    ([[1, 2], [-1, -2]], False), ([[1, 2], [2, -1]], False),
    ([[1, 2], [1, -2], [-1, 3], [-1, -3]], True), ([[1, 1], [-1, 0]], False),
    ([[0, 1]], False), ([[1, 0, 2], [-1, 0, 0]], False),
])
def test_trees_are_covered(paths, whole):
  assert checker.covers(paths) == whole


def residual_graph():
  """Convolutions with every stride and padding, a sum, a transpose."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32) / 3
  builder = Builder((2, 7, 6), np.float32)
  x = transformers.transpose(builder.input, (1, 2, 0))
  x = transformers.scale_shift(x, draw(2), draw(2))
  x = transformers.conv(x, draw(3, 2, 2, 3), draw(3), stride=(2, 1), padding=1)
  x = transformers.relu(x)
  y = transformers.conv(x, draw(3, 3, 3, 3), draw(3), padding=((1, 1), (2, 0)))
  x = transformers.relu(transformers.add(x, y))
  x = transformers.reshape(x, (int(np.prod(x.shape[1:])),))
  return builder.graph(transformers.dense(x, draw(x.shape[1], 2), draw(2)))


def test_residual_networks_of_convolutions():
  """Runs, transposes and bounds of the checker's own network."""
  graph = residual_graph()
  arrays, calls = {}, []
  for number, call in enumerate(graph.calls, start=1):
    arrays |= {f"{number}/{k}": np.asarray(v) for k, v in call.arrays.items()}
    calls.append({
        "op": call.transformer, "inputs": call.inputs,
        "arrays": list(call.arrays), "options": {
            k: v for k, v in call.options if k not in ("dilation", "groups")
        },
    })
  header = {"calls": json.loads(json.dumps(calls)), "input_shape": [2, 7, 6]}
  network = checker.Network(header, arrays)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 2, 7, 6))
  for (_, affine), shape in zip(network.calls, network.shapes[1:]):
    if affine is None:
      continue
    u, v = rng.normal(size=(1, *affine.inputs)), rng.normal(size=(1, *shape))
    assert np.isclose(
        np.sum(affine.apply(u, affine.kernel) * v),
        np.sum(u * affine.transposed(v)),
    )
  at = network.bounds(x, x)[-1]
  run = jax.jit(lambda x: graph(x))
  expected = np.asarray(run(x.astype(np.float32)))
  np.testing.assert_allclose(at[0], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(*at, rtol=1e-9)
  bounds = network.bounds(x - 0.2, x + 0.2)
  rows = rng.normal(size=(1, 4, 2))
  found = network.walk(len(network.calls), rows, bounds)
  points = x + rng.uniform(-0.2, 0.2, (500, 2, 7, 6))
  outputs = np.asarray(run(points.astype(np.float32)))
  assert np.all(outputs @ rows[0].T <= found[0] + 1e-5)
  assert np.all(found < 3 * np.abs(outputs @ rows[0].T).max(axis=0) + 3)


def test_proofs_of_a_recorded_network_are_accepted(tmp_path):
  """Its convolutions say their dilation and padding by axis."""
  rng = np.random.default_rng(3)
  kernel, weights = rng.normal(size=(3, 3, 1, 4)), rng.normal(size=(64, 2))

  def network(x):
    x = lax.conv_general_dilated(
        x, kernel.astype(np.float32), (2, 2), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.nn.relu(x).reshape(len(x), -1) @ weights.astype(np.float32)

  graph = from_jax(network, (8, 8, 1))
  image = rng.uniform(size=(1, 8, 8, 1)).astype(np.float32)
  region, row = Linf(0.02, None), np.array([[1, -1]])
  proofs = Proofs(graph, region)
  at = float((row @ np.asarray(jax.jit(network)(image))[0])[0])
  # Nothing is attacked, and roots have the lines' own slopes.
  settings = dataclasses.replace(SETTINGS, attack_steps=0, root_steps=0)
  found = search(
      graph, image, region, spec_of(row, [-at - 3.5]), settings, leaves=proofs
  )
  assert found.verified.all()
  proofs.write(0, tmp_path / "proof.npz")
  leaves, worst, _ = checker.check(tmp_path / "proof.npz")
  assert leaves > 1 and worst < 0


def test_it_runs_without_jax(written, tmp_path):
  """As a command, where importing JAX fails; with the network's weights."""
  (tmp_path / "jax.py").write_text("raise ImportError('no jax here')")
  weights, *_, path = written[0]
  names = [f"{n}/{k}" for n in range(3) for k in ("kernel", "bias")]
  np.savez(tmp_path / "network.npz", **dict(zip(names, sum(weights, ()))))
  np.savez(tmp_path / "other.npz", kernel=np.zeros((4, 7), np.float32))
  places = [os.fspath(tmp_path), *map(os.fspath, sys.path)]
  run = lambda *arguments: subprocess.run(
      [sys.executable, "-m", "diffai_jax.check", *map(os.fspath, arguments)],
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
      capture_output=True, text=True, check=False,
  )
  good = run(path, "--network", tmp_path / "network.npz")
  assert good.returncode == 0 and "holds" in good.stdout, good.stderr
  bad = run(path, tmp_path / "none.npz", "--network", tmp_path / "other.npz")
  assert bad.returncode == 1 and bad.stdout.count("refused") == 2, bad.stderr
  assert "is not in" in bad.stdout and "cannot be read" in bad.stdout


def test_the_checker_is_small_and_uses_numpy_alone():
  with open(checker.__file__, encoding="utf-8") as file:
    lines = file.read().splitlines()
  assert len(lines) <= 400
  imports = {l.split()[1] for l in lines if l.startswith(("import ", "from "))}
  assert imports == {"argparse", "hashlib", "json", "math", "numpy", "sys"}


def test_what_the_checker_does_not_know_has_no_proofs():
  builder = Builder((4,), np.float32)
  graph = builder.graph(transformers.tanh(builder.input))
  with pytest.raises(UsageError, match="this one has tanh: leave proofs out"):
    Proofs(graph, None)
  with pytest.raises(UsageError, match="an L2 ball"):
    Proofs(small_networks.graph_of(problem(31)[0]), L2(0.1))
