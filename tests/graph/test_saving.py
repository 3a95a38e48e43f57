"""Graphs on disk: the same bits again, and one line for anything else."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_graph import images, network_of

from diffai_jax import transformers
from diffai_jax.graph import load, record, save
from diffai_jax.graph.saving import to_arrays
from diffai_jax.types import Mode, UsageError


def recorded():
  network, variables, shape = network_of("ResNet-Tiny")
  return record(lambda x: network.apply(variables, x, Mode.TRAIN), shape), shape


def test_a_graph_comes_back_bit_for_bit(tmp_path):
  graph, shape = recorded()
  save(graph, tmp_path / "net.npz")
  again = load(tmp_path / "net.npz")
  assert jax.tree.structure(again) == jax.tree.structure(graph)
  for a, b in zip(*map(jax.tree.leaves, (again, graph)), strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  x = jnp.asarray(images(shape), jnp.float32)
  np.testing.assert_array_equal(again(x), graph(x))


def test_random_keys_are_saved(tmp_path):
  graph = record(
      lambda x: transformers.correlate_random(x, 2, jax.random.key(3)), (4,)
  )
  save(graph, tmp_path / "net.npz")
  again = load(tmp_path / "net.npz")
  key = again.calls[0].arrays["key"]
  assert bool(key == jax.random.key(3))


def _changed(graph, **values):
  arrays = to_arrays(graph)
  text = json.loads(str(arrays["graph"])) | values
  return arrays | {"graph": np.asarray(json.dumps(text))}


@pytest.mark.parametrize("damage", [
    lambda arrays: {"graph": np.asarray("{}")},
    lambda arrays: {"graph": np.asarray("[" * 100_000)},
    lambda arrays: {k: v for k, v in arrays.items() if k != "graph"},
    lambda arrays: {k: v for k, v in arrays.items() if k != "0/factor"},
    lambda arrays: arrays | {"1/kernel": np.zeros((2, 2))},
])
def test_damage_is_one_line(damage, tmp_path):
  graph, _ = recorded()
  path = tmp_path / "net.npz"
  np.savez(path, **damage(to_arrays(graph)))
  with pytest.raises(UsageError) as error:
    load(path)
  assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("calls", [
    [{"transformer": "eval", "inputs": [0], "arrays": [], "options": {},
      "name": ""}],
    [{"transformer": "relu", "inputs": [1], "arrays": [], "options": {},
      "name": ""}],
    [{"transformer": "relu", "inputs": [-1], "arrays": [], "options": {},
      "name": ""}],
    [{"transformer": "relu", "inputs": [0], "arrays": [],
      "options": {"code": 1}, "name": ""}],
])
def test_only_known_calls_of_earlier_results_are_read(calls, tmp_path):
  graph, _ = recorded()
  path = tmp_path / "net.npz"
  np.savez(path, **_changed(graph, calls=calls, outputs=[1]))
  with pytest.raises(UsageError, match="holds no graph"):
    load(path)


def test_files_that_are_none(tmp_path):
  with pytest.raises(UsageError, match="cannot read"):
    load(tmp_path / "missing.npz")
  (tmp_path / "text.npz").write_text("text")
  with pytest.raises(UsageError, match="holds no graph"):
    load(tmp_path / "text.npz")
