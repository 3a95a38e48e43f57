"""Networks and properties of VNN-COMP 2021, with verdicts that are known."""

import csv
import functools
import pathlib

import jax
import numpy as np
import pytest

from diffai_jax.graph import correlate_before_last, from_onnx, simplify
from diffai_jax.regions import read_vnnlib, upper_bounds, write_vnnlib
from diffai_jax.verification import methods

_SHARED = pathlib.Path(__file__).parents[2].parent / "shared" / "vnn"

pytest.importorskip("onnx", reason="the package onnx is not installed")
pytestmark = pytest.mark.skipif(
    not (_SHARED / "verdicts.csv").is_file(),
    reason="no networks of VNN-COMP in ../shared/vnn",
)
_FILES = sorted(_SHARED.glob("*.onnx"))


def _verdicts():
  if not (_SHARED / "verdicts.csv").is_file():
    return []
  with open(_SHARED / "verdicts.csv", encoding="utf-8") as file:
    return [tuple(row.values()) for row in csv.DictReader(file)]


@functools.cache
def _network(name):
  return correlate_before_last(simplify(from_onnx(_SHARED / name)))


# Networks are arguments: those of one architecture share a program.
_run = jax.jit(lambda graph, inputs: graph(inputs))


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_networks_say_what_onnxruntime_says(path):
  from tests.onnx_models import run
  graph = from_onnx(path)
  inputs = np.random.default_rng(0).uniform(size=(4, *graph.input_shape))
  inputs = inputs.astype(np.float32)
  expected = run(str(path), inputs)
  for one in (graph, simplify(graph)):
    found = np.asarray(_run(one, inputs)).reshape(4, -1)
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    "path", sorted(_SHARED.glob("acas*")) + sorted(_SHARED.glob("*0.03*"))[:2],
    ids=lambda path: path.name,
)
def test_properties_are_read_and_written(path, tmp_path):
  (region, spec), = read_vnnlib(path)
  write_vnnlib(region, spec, tmp_path / "again.vnnlib")
  (again, same), = read_vnnlib(tmp_path / "again.vnnlib")
  for one, other in zip(jax.tree.leaves((region, spec)),
                        jax.tree.leaves((again, same))):
    np.testing.assert_array_equal(one, other)
  assert spec.groups == same.groups


@functools.cache
def _property(name, text):
  return read_vnnlib(_SHARED / text, _network(name).input_shape)


@functools.partial(jax.jit, static_argnums=0)
def _bounds(method, graph, region, spec):
  """Upper bounds of a spec over boxes; of one program for a kind of spec."""
  return upper_bounds(graph(method.element(None, region)), spec)


@jax.jit
def _values(graph, region, spec, key):
  """What the spec asks about, at a point of the region."""
  return spec.values(graph(region.sample(jax.random.split(key, 1))))


@pytest.mark.parametrize("method, least", [
    (methods.Box(), 0), (methods.HBox(), 1), (methods.ZDeepZ(), 3),
], ids=str)
def test_nothing_with_a_counterexample_is_proved(method, least):
  """And some of what has none is."""
  proved = []
  for name, text, verdict in _verdicts():
    if "resnet" in name:  # Takes long to compile; the same code as of others.
      continue
    pairs = _property(name, text)
    if all(
        spec.proved(_bounds(method, _network(name), region, spec))[0]
        for region, spec in pairs
    ):
      assert verdict != "sat", (name, text)
      proved.append((name, text))
  assert len(proved) >= least


@pytest.mark.parametrize("name, text, method", [
    ("resnet_2b.onnx", "resnet2b_prop_11_eps_0.008.vnnlib.gz", methods.Box()),
    ("mnist-net_256x2.onnx", "mnistfc_prop_0_0.05.vnnlib.gz", methods.ZDeepZ()),
], ids=str)
def test_points_of_a_property_are_within_its_bounds(name, text, method):
  (region, spec), = _property(name, text)
  bounds = np.asarray(_bounds(method, _network(name), region, spec))
  assert np.all(np.isfinite(bounds))
  for seed in range(5):
    key = jax.random.key(seed)
    assert np.all(_values(_network(name), region, spec, key) <= bounds)
