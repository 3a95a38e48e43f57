"""A step that works through its batch in parts."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from test_step import _BATCH, _DATASET, _EPSILON, _RATE, _data
from test_step import _optimizer, fresh

from diffai_jax import objectives
from diffai_jax.data import Dataset
from diffai_jax.networks import ffnn, fold
from diffai_jax.nn import (
    DeepLoss,
    Flatten,
    Linear,
    Normalize,
    ReLU,
    Sequential,
)
from diffai_jax.nn.batch_norm import POPULATION
from diffai_jax.schedules import Lin
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, make_step

RANDOM = "Mix(PGD(2, 0.5), Sample(0.5, 0.5, Normal, Box), 0.5)"
AUGMENTED = Dataset(
    (4, 4, 1), 3, (0.4,), (0.5,), _EPSILON, crop_padding=1, flip=True
)
DROPPING = ffnn(3, (0.4,), (0.5,), hidden=(9,), dropout=0.3)
DEEP = Sequential((
    Normalize((0.4,), (0.5,)), Flatten(), Linear(6),
    DeepLoss(Lin(0.1, 0.5, 4), only_train=True), ReLU(), DeepLoss(0.2),
    Linear(3),
))
NORMALISED = ffnn(3, (0.4,), (0.5,), hidden=(9,), batch_norm=True)


def state_of(network):
  return fresh(first_state(network))


@functools.cache
def first_state(network):
  """The first state, every number of its weights random."""
  rng = np.random.default_rng(3)
  state = create_state(network, _optimizer(), (4, 4, 1), seed=1)
  return dataclasses.replace(state, params=jax.tree.map(
      lambda w: w + 0.1 * rng.normal(size=w.shape).astype(w.dtype),
      state.params,
  ))


def step_of(network, goal, accumulate, dataset=_DATASET, **arguments):
  return make_step(
      network, objectives.parse(goal), _optimizer(), dataset, _EPSILON, 5,
      lambda step: step + 1.0, accumulate=accumulate, **arguments,
  )


def trained(step, network, batches):
  """The state after the batches, and what each step reports."""
  state, rows = state_of(network), []
  for batch in batches:
    state, metrics = step(state, *batch)
    rows.append({name: float(value) for name, value in metrics.items()})
  return state, rows


def assert_close(found, wanted, tolerance=1e-5):
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(
      functools.partial(
          np.testing.assert_allclose, rtol=tolerance, atol=tolerance
      ), found, wanted,
  )


@pytest.mark.parametrize("network, goal, dataset, parts", [
    (DROPPING, RANDOM, AUGMENTED, 4), (DEEP, "Box", _DATASET, 3)
], ids=["random", "deep loss"])
def test_parts_make_the_step_of_the_whole(network, goal, dataset, parts):
  """Draws, attacks, augmentation, dropout and deep losses are the same."""
  step = step_of(network, goal, parts, dataset)
  found, rows = trained(step, network, [_data(0), _data(1)])
  step = step_of(network, goal, 1, dataset)
  wanted, expected = trained(step, network, [_data(0), _data(1)])
  assert_close(rows, expected)
  assert_close(found.params, wanted.params)
  moved = jax.tree.map(
      lambda new, old: np.max(np.abs(np.asarray(new) - np.asarray(old))),
      found.params, first_state(network).params,
  )
  assert all(change > 1e-3 for change in jax.tree.leaves(moved))
  assert int(found.step) == 2


@pytest.mark.parametrize("network, regularize", [
    (NORMALISED, Regularizers()),
    (ffnn(3, (0.4,), (0.5,), hidden=(9,)), Regularizers(0.5, 0.5, 0.9)),
], ids=["normalised", "regularised"])
def test_normalisation_and_regularisers_see_a_part(network, regularize):
  """As in steps of the halves alone, of which everything is the mean."""
  goal = "Mix(Point, Box, 0.5)"
  images, labels = (np.reshape(x, (2, _BATCH // 2, *x.shape[2:]))
                    for x in _data())
  split = lambda x: x.reshape((jax.local_device_count(), -1) + x.shape[1:])
  alone = step_of(network, goal, 1, regularize=regularize)
  halves = [
      trained(alone, network, [(split(x), split(y))])
      for x, y in zip(images, labels)
  ]
  found, (row,) = trained(
      step_of(network, goal, 2, regularize=regularize), network, [_data()]
  )
  (one, (first,)), (two, (second,)) = halves
  mean = functools.partial(
      jax.tree.map, lambda a, b: (np.asarray(a) + np.asarray(b)) / 2
  )
  assert_close(found.params, mean(one.params, two.params))
  assert_close(found.statistics, mean(one.statistics, two.statistics))
  assert bool(jax.tree.leaves(found.statistics)) == (network is NORMALISED)
  for name in ("loss", "accuracy", "verified"):
    assert_close(row[name], (first[name] + second[name]) / 2)
  for name in ("epsilon", "largest_bound"):
    assert_close(row[name], max(first[name], second[name]))
  gradient = jax.tree.leaves(jax.tree.map(
      lambda new, old: (np.asarray(new) - np.asarray(old)) / _RATE,
      found.params, first_state(network).params,
  ))
  norm = np.sqrt(sum(np.sum(np.square(part)) for part in gradient))
  np.testing.assert_allclose(row["gradient_norm"], norm, rtol=1e-4)
  # The halves differ: the mean is none of both.
  assert abs(first["loss"] - second["loss"]) > 1e-3


@pytest.mark.parametrize("goal", ["Point", "Mix(FGSM, Box, 0.5)"])
def test_parts_take_less_memory(goal):
  """Of what a batch needs, four parts one after the other need a quarter."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(64,) * 3)
  shape = (jax.local_device_count(), 1024)
  state = jax.eval_shape(
      lambda: create_state(network, _optimizer(), (4, 4, 1), seed=1)
  )
  images = jax.ShapeDtypeStruct((*shape, 4, 4, 1), np.uint8)
  labels = jax.ShapeDtypeStruct(shape, np.int32)
  one, four = (
      step_of(network, goal, parts).lower(state, images, labels).compile()
      .memory_analysis().temp_size_in_bytes
      for parts in (1, 4)
  )
  # The images themselves, their labels and keys are there at once.
  assert four < 0.4 * one


def test_a_normalised_network_learns():
  """Which third of the image is bright; the population's statistics serve."""
  rng = np.random.default_rng(2)
  step = step_of(NORMALISED, "Mix(Point, Sub(0.2, Box), 0.3)", 3)
  state = state_of(NORMALISED)
  losses = []
  for _ in range(40):
    labels = rng.integers(0, 3, _BATCH).astype(np.int32)
    images = rng.integers(0, 60, (_BATCH, 4, 4, 1))
    for image, label in zip(images, labels):
      image[label] += 150
    split = (jax.local_device_count(), -1)
    images = images.astype(np.uint8)
    state, metrics = step(
        state, images.reshape(*split, 4, 4, 1), labels.reshape(split)
    )
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-5:]) < 0.3 * losses[0]
  network, params = fold(
      NORMALISED, {"params": state.params, POPULATION: state.statistics}
  )
  logits = jax.jit(network.apply)(
      {"params": params}, images / np.float32(255)
  )
  assert np.mean(np.argmax(logits, axis=1) == labels) > 0.9
