"""`import diffai_jax as dj`: what it promises to those who call it."""

import doctest
import importlib
import pathlib
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax import networks, nn
from diffai_jax.regions import linf
from diffai_jax.types import UsageError
from diffai_jax.verification import certification, program_cache, programs

_ROOT = pathlib.Path(__file__).parents[1]
_RANDOM = np.random.default_rng(0)
_BYTES = _RANDOM.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8)
_FLOATS = (_BYTES / np.float32(255))
_NETWORK = nn.Sequential([
    nn.Conv2D(2, 3, padding=1), nn.BatchNorm(), nn.ReLU(), nn.Flatten(),
    nn.Linear(3),
])
# The same for images from 0 to 255.
_WIDE = nn.Sequential([nn.Normalize((0.0,), (255.0,)), _NETWORK])
_forward, _forward_wide = jax.jit(_NETWORK.apply), jax.jit(_WIDE.apply)


@pytest.fixture(scope="module")
def run():
  """A network that normalises, and labels that it mostly agrees with."""
  variables = jax.jit(_NETWORK.init)(jax.random.key(1), _FLOATS)
  variables["batch_stats"]["layers_1"]["mean"] = jnp.array([0.3, -0.2])
  variables["batch_stats"]["layers_1"]["variance"] = jnp.array([0.4, 2.0])
  return types.SimpleNamespace(network=_NETWORK, variables=variables)


@pytest.fixture(scope="module")
def labels(run):
  logits = np.asarray(_forward(run.variables, _FLOATS))
  labels = logits.argmax(axis=1)
  labels[5] = (labels[5] + 1) % 3
  return labels


@pytest.fixture(scope="module")
def rows(run):
  """An image that is far from other classes, and one that is misclassified."""
  logits = np.sort(_forward(run.variables, _FLOATS))[:5]
  return np.array([np.argmax(logits[:, -1] - logits[:, -2]), 5])


# What is imported.


def test_importing_loads_nothing_and_every_name_is_there():
  """No JAX, no flags; and the names are what they are called."""
  code = """
import os, sys
before = dict(os.environ)
import diffai_jax as dj
assert not {"jax", "flax", "numpy"} & set(sys.modules), "loaded"
assert dict(os.environ) == before
names = [name for name in dir(dj) if not name.startswith("_")]
assert {"Attack", "Linf", "bounds", "certify", "largest_epsilon", "methods"} < set(names)
# What these set for themselves is theirs.
import jax, orbax.checkpoint, tensorboardX
values, before = dict(jax.config.values), dict(os.environ)
for name in names:
  getattr(dj, name)
assert dict(jax.config.values) == values
assert dict(os.environ) == before
assert dj.methods.HBox().__class__.__name__ == "HBox"
try:
  dj.nothing
except AttributeError as error:
  assert "nothing" in str(error)
else:
  raise AssertionError
from diffai_jax import attacks
"""
  subprocess.run([sys.executable, "-c", code], check=True, cwd=_ROOT)


@pytest.mark.parametrize("name", ["certify", "bounds", "largest_epsilon"])
def test_examples_of_docstrings(name):
  function = getattr(dj, name)
  found = doctest.DocTestFinder(recurse=False).find(
      function, name, module=importlib.import_module(function.__module__)
  )
  assert sum(len(test.examples) for test in found) >= 6
  runner = doctest.DocTestRunner()
  for test in found:
    assert runner.run(test).failed == 0


def test_examples_of_regions():
  found = doctest.testmod(linf)
  assert found.attempted and not found.failed


def test_the_readme_works_as_it_is_printed(capsys):
  text = (_ROOT / "README.md").read_text(encoding="utf-8")
  section = re.split(r"^## ", text, flags=re.MULTILINE)
  section = next(s for s in section if s.startswith("From Python\n"))
  (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
  exec(compile(code, "README.md", "exec"), {})
  assert "'HBox': " in capsys.readouterr().out


# What is computed.

_REGIONS = {
    "number": dj.Linf(0.02),
    "one an example": dj.Linf(np.array([0.05, 0.01])),
    "one a variable": dj.Linf(_RANDOM.uniform(0, 0.06, (4, 4, 1))),
    "each its own": dj.Linf(_RANDOM.uniform(0, 0.06, (2, 4, 4, 1))),
    "no range": dj.Linf(0.03, None),
    "0 to 255": dj.Linf(5.0, (0, 255)),
}


def _points(region, images, count=8):
  """Random points and corners of the region, in float64 and then float32."""
  epsilon = np.asarray(region.epsilon, float)
  if epsilon.shape == (2,):
    epsilon = epsilon[:, None, None, None]
  images = images.astype(float)
  for number in range(count):
    noise = _RANDOM.uniform(-1, 1, images.shape)
    points = images + epsilon * (np.sign(noise) if number % 2 else noise)
    if region.data_range is not None:
      points = np.clip(points, *region.data_range)
    yield points.astype(np.float32)


@pytest.mark.parametrize("name", _REGIONS)
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_no_point_escapes(run, labels, rows, name, kind):
  """Neither the layers' bounds nor the class, where that is verified."""
  region, network, forward, scale = _REGIONS[name], _NETWORK, _forward, 1
  variables, labels = run.variables, labels[rows]
  if name == "0 to 255":
    if kind == "uint8":
      return
    network, forward = _WIDE, _forward_wide
    variables = {of: {"layers_1": tree} for of, tree in variables.items()}
    scale = 255
  exact = _BYTES[rows] / 255 * scale
  images = _BYTES[rows] if kind == "uint8" else exact.astype(kind)
  run = network, variables
  found = dj.certify(run, images, labels, region, ["HBox"], attack=None)
  lower, upper = dj.bounds(
      run, images, region, at=f"layers_{len(network.layers) - 1}", method="HBox"
  )
  for points in _points(region, exact):
    logits = np.asarray(forward(variables, points))
    assert np.all(lower <= logits) and np.all(logits <= upper)
    others = logits.copy()
    others[[0, 1], labels] = -np.inf
    margin = logits[[0, 1], labels] - others.max(axis=1)
    assert np.all(margin >= found.margins["HBox"])
    assert margin[0] > 0
  np.testing.assert_array_equal(found.verified["HBox"], [True, False])
  assert np.all(upper - lower < 2)


def test_bytes_and_their_floats_are_the_same(run, labels):
  one, other = (
      dj.certify(
          run, images, labels[:2], dj.Linf(0.02), ["Box"], attack=None
      )
      for images in (_BYTES[:2], jnp.asarray(_FLOATS[:2]))
  )
  for method, margin in one.margins.items():
    np.testing.assert_allclose(margin, other.margins[method], atol=1e-6)
  np.testing.assert_array_equal(one.predictions, other.predictions)


def test_runs_and_pairs_are_alike_and_normalisation_is_folded(run, labels):
  pair = run.network, run.variables
  one, other = (
      dj.certify(
          which, _BYTES, labels, dj.Linf(0.02), methods=["Box"], attack=None
      )
      for which in (run, pair)
  )
  np.testing.assert_array_equal(one.margins["Box"], other.margins["Box"])
  network, params = networks.fold(*pair)
  direct = certification.certify(
      network, params, certification.Examples(_BYTES, labels), dj.Linf(0.02),
      methods=["Box"], attack=dj.Attack(steps=0),
  )
  np.testing.assert_array_equal(one.margins["Box"], direct.margins["Box"])


def test_what_a_certification_has(run, labels):
  told = []
  found = dj.certify(
      run, _BYTES, labels, dj.Linf(0.9), methods=["Box", dj.methods.HBox()],
      attack=dj.Attack(steps=3), skip_decided=True, memory_mb=64,
      progress=lambda phase, done: told.append((phase, done)),
  )
  for name in ("labels", "predictions", "attacked_correct", "falsified"):
    assert getattr(found, name).shape == (6,)
  assert set(found.verified) == set(found.margins) == {"Box", "HBox"}
  assert set(found.seconds) == {"standard", "attack", "Box", "HBox"}
  assert found.falsified.dtype == bool and found.falsified[5]
  assert list(found.counterexamples) == list(np.flatnonzero(found.falsified))
  for row, point in found.counterexamples.items():
    assert np.abs(point - _FLOATS[row]).max() <= 0.9 * (1 + 1e-5)
    logits = np.asarray(_forward(run.variables, point[None]))
    assert logits.argmax() != labels[row]
  assert found.summary()["examples"] == 6
  assert ("HBox", 6) in told


def test_without_an_attack_only_mistakes_are_falsified(run, labels):
  found = dj.certify(
      run, _FLOATS, labels, dj.Linf(0.9), methods=(), attack=None
  )
  np.testing.assert_array_equal(found.falsified, np.arange(6) == 5)
  np.testing.assert_array_equal(found.counterexamples[5], _FLOATS[5])


def test_the_largest_epsilon_is_verified_and_the_next_is_not(run, labels):
  steps = 12
  found = dj.largest_epsilon(run, _FLOATS, labels, "HBox", steps=steps)
  assert found[5] == -np.inf and np.all(found[:5] > 0)
  some = np.maximum(found, 0)
  at = dj.certify(run, _FLOATS, labels, dj.Linf(some), ["HBox"], attack=None)
  np.testing.assert_array_equal(at.verified["HBox"], found >= 0)
  above = dj.certify(
      run, _FLOATS, labels, dj.Linf(some + 1.01 / 2**steps), ["HBox"],
      attack=None,
  )
  assert not above.verified["HBox"].any()


def test_float64_is_certified_as_such(run, labels, float64):
  images = _BYTES[:2] / 255 + 1e-12
  found = dj.certify(
      run, np.minimum(images, 1), labels[:2], dj.Linf(1e-9), ["Box"], attack=None
  )
  assert found.margins["Box"].dtype == np.float64
  logits = np.sort(_forward(run.variables, np.minimum(images, 1)))
  gap = logits[:, -1] - logits[:, -2]
  assert np.all(found.margins["Box"] <= gap)
  np.testing.assert_allclose(found.margins["Box"], gap, atol=1e-4)


# What is compiled.


@pytest.fixture
def compiled():
  """How often XLA has compiled since the test began."""
  count = []

  def listen(event, seconds, **_):
    if "backend_compile" in event:
      count.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield count
  jax.monitoring.unregister_event_duration_listener(listen)


def test_another_epsilon_and_other_images_compile_nothing(
    run, labels, compiled
):
  def everything(images, labels, epsilon, scale=1.0):
    own = run.network, jax.tree.map(lambda w: w * scale, run.variables)
    fresh = own[0].clone(), own[1]  # Another module of the same layers.
    dj.certify(
        fresh, images, labels, dj.Linf(epsilon), ["HBox"],
        attack=dj.Attack(steps=2), skip_decided=True,
    )
    dj.bounds(fresh, images, dj.Linf(epsilon), at="layers_2")
    dj.largest_epsilon(fresh, images, labels, steps=3)

  program_cache.forget()
  images, labels = _FLOATS[:2], labels[:2]
  everything(images, labels, 0.01)
  assert len(compiled) >= 4  # The count counts.
  before = len(compiled)
  everything(images, labels, 0.3)
  everything(images[::-1] * 0.7, labels[::-1], np.array([0, 0.2]))
  everything(images, labels, 0.1, scale=0.5)
  assert len(compiled) == before
  everything(images, labels, np.full((4, 4, 1), 0.1))
  one_a_variable = len(compiled)
  assert one_a_variable > before
  everything(images, labels, _RANDOM.uniform(size=(2, 4, 4, 1)))
  assert len(compiled) == one_a_variable


def test_kept_programs_are_bounded(run, labels, monkeypatch):
  kept = program_cache.LastUsed(2)
  monkeypatch.setattr(programs, "_PROGRAMS", kept)
  for method in ("Box", "HBox", "HSwitch"):
    dj.largest_epsilon(run, _FLOATS[:2], labels[:2], method, steps=1)
  assert len(kept) == 2


# What is refused.


@pytest.mark.parametrize("change, message", [
    ({"images": _BYTES.astype("float32")}, "outside of the data's range, 0 to 1"),
    ({"images": _BYTES.astype("int32")}, "images are of type int32"),
    ({"images": _FLOATS - 0.5}, "outside of the data's range"),
    ({"images": _FLOATS * np.nan}, "is nan; expected finite"),
    ({"images": _FLOATS[0, 0, 0]}, "the shape"),
    ({"images": _FLOATS[:0], "labels": []}, "empty"),
    ({"images": _FLOATS[..., 0]}, r"layers_0"),
    ({"images": np.repeat(_FLOATS, 3, -1)}, "layers_0 has a kernel of"),
    ({"images": np.zeros((6, 5, 5, 1))}, "layers_4 has a kernel of"),
    ({"images": None}, "images is None"),
    ({"labels": [0, 1, 2, 0, 1, 3]}, "label 3 of example 5 is no class"),
    ({"labels": [-1, 1, 2, 0, 1, 0]}, r"labels\[0\] is -1"),
    ({"labels": [0.0] * 6}, "labels are of type float64"),
    ({"labels": [0]}, "there are 1 labels for 6 images"),
    ({"region": 0.1}, "the region is 0.1"),
    ({"region": dj.Linf(-1)}, "epsilon is -1"),
    ({"region": dj.Linf(np.zeros(5))}, r"epsilon is \[5\]"),
    ({"region": dj.Linf(0.1, (0, 2)), "images": _BYTES}, "images are uint8"),
    ({"methods": "HBox"}, "methods is 'HBox' alone"),
    ({"methods": ["HBoxx"]}, "did you mean 'HBox'"),
    ({"attack": 20}, "the attack is 20"),
    ({"memory_mb": 0}, "memory_mb is 0"),
    ({"run": None}, "the run is None"),
    ({"run": (_NETWORK,)}, "the run is"),
    ({"run": (_NETWORK, None)}, "variables are None"),
    ({"run": (_NETWORK, {"layers_0": {}})}, r"variables are \['layers_0'\]"),
    ({"run": (_NETWORK, {})}, "does not take images"),
    ({"run": (_NETWORK, {"params": {}, "batch_stats": {"layers_1": {}}})},
     "another network's: they have no 'layers_0'"),
])
def test_mistakes_are_one_line_and_value_errors(run, labels, change, message):
  given = {
      "run": run, "images": _FLOATS, "labels": labels, "region": dj.Linf(0.1)
  } | change
  with pytest.raises(ValueError, match=message) as caught:
    dj.certify(**given)
  assert isinstance(caught.value, UsageError)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change, message", [
    ({"at": "layers_22"}, "did you mean 'layers_2'"),
    ({"method": "Boxx"}, "did you mean 'Box'"),
    ({"images": _FLOATS * 200}, "outside of the data's range"),
    ({"memory_mb": "much"}, "memory_mb is 'much'"),
    ({"images": np.zeros((6, 5, 5, 1))}, "layers_4 has a kernel of"),
])
def test_mistakes_with_bounds(run, change, message):
  given = {"run": run, "images": _FLOATS, "region": dj.Linf(0.1)} | change
  with pytest.raises(ValueError, match=message) as caught:
    dj.bounds(**given)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change, message", [
    ({"steps": 2.5}, "steps is 2.5"),
    ({"steps": -1}, "steps is -1"),
    ({"steps": 10**9}, "steps is 1000000000"),
    ({"most": -1}, "epsilon is -1"),
    ({"most": [1, 2]}, "most is"),
    ({"data_range": None}, "most is None, and so is the data's range"),
    ({"data_range": (1, 0)}, "data_range is"),
    ({"method": "Boxx"}, "did you mean 'Box'"),
    ({"images": _FLOATS * 200}, "outside of the data's range"),
])
def test_mistakes_with_the_largest_epsilon(run, labels, change, message):
  given = {"run": run, "images": _FLOATS, "labels": labels} | change
  with pytest.raises(ValueError, match=message) as caught:
    dj.largest_epsilon(**given)
  assert "\n" not in str(caught.value)


def test_the_range_of_a_run_is_its_own(run, labels):
  wide = types.SimpleNamespace(
      network=run.network, variables=run.variables, data_range=(-1.0, 1.0)
  )
  found = dj.largest_epsilon(wide, _FLOATS - 0.5, labels, "Box", steps=2)
  assert found.shape == (6,)
  with pytest.raises(ValueError, match="outside of the data's range"):
    dj.largest_epsilon(run, _FLOATS - 0.5, labels, "Box", steps=2)
