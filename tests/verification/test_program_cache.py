"""Compiled programs are found again by what they compute, and by nothing less."""

import dataclasses
import functools

import numpy as np
import pytest

from diffai_jax import networks, nn
from diffai_jax.verification.measures import MeasureMargin
from diffai_jax.verification.methods import Box, HBox
from diffai_jax.verification.program_cache import LastUsed, shapes, structure


@pytest.mark.parametrize("name", ["ConvMed", "ResNetTiny", "CNN7"])
def test_networks_made_alike_are_one(name):
  one, other = (networks.create(name, 10) for _ in range(2))
  assert one is not other
  assert structure(one) == structure(other)
  assert hash(structure(one)) == hash(structure(other))
  assert structure(one) != structure(networks.create(name, 9))


def test_shared_layers_are_no_equal_layers():
  """They are equal to Flax, and one of them has one set of weights."""
  layer, twin = nn.Linear(3), nn.Linear(3)
  shared = nn.Sequential((layer, nn.ReLU(), layer))
  apart = nn.Sequential((layer, nn.ReLU(), twin))
  assert shared == apart
  assert structure(shared) != structure(apart)
  again = nn.Sequential([twin, nn.ReLU(), twin])
  assert structure(again) == structure(shared)


def test_fields_of_every_kind_count():
  def made(value):
    return structure(Holding(value))

  assert made(1) != made(1.0) != made(True)
  assert made([1, 2]) == made((1, 2)) != made((2, 1))
  assert made({"a": 1}) == made({"a": 1}) != made({"a": 2})
  assert made(np.array([1.0])) == made(np.array([1.0]))
  assert made(np.array([1.0])) != made(np.array([1.5]))
  assert made(np.float32([1])) != made(np.float64([1]))
  assert made(None) == made(None)
  call = functools.partial(max, 1)
  assert made(call) == made(call) != made(functools.partial(max, 1))
  opaque = bytearray(b"a")  # No hash: equals itself alone.
  assert made(opaque) == made(opaque) != made(bytearray(b"a"))


@dataclasses.dataclass(frozen=True)
class Holding:
  value: object


def test_measures_differ_by_method():
  network = nn.Linear(2)
  box, again = (MeasureMargin(network, Box()) for _ in range(2))
  assert structure(box) == structure(again)
  assert structure(box) != structure(MeasureMargin(network, HBox()))


def test_shapes_are_of_structure_and_types():
  tree = {"a": np.zeros((2, 3), np.float32)}
  assert shapes(tree) == shapes({"a": np.ones((2, 3), np.float32)})
  assert shapes(tree) != shapes({"b": np.zeros((2, 3), np.float32)})
  assert shapes(tree) != shapes({"a": np.zeros((2, 4), np.float32)})
  assert shapes(tree) != shapes({"a": np.zeros((2, 3), np.float64)})


def test_those_asked_for_last_are_kept():
  kept, made = LastUsed(2), []

  def get(key):
    return kept.get(key, lambda: made.append(key) or key)

  for key in "abacab":
    assert get(key) == key
  assert made == ["a", "b", "c", "b"] and len(kept) == 2
  with pytest.raises(ZeroDivisionError):
    kept.get("d", lambda: 1 / 0)
  assert len(kept) == 2  # What fails is not kept.
  kept.clear()
  assert len(kept) == 0
