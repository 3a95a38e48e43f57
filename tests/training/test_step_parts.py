"""Parts of the training step: regularisers, dropout, random goals, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import _BATCH, _DATASET, _EPSILON, _RATE, _data
from test_step import _optimizer, _state

from diffai_jax import domains, goals, objectives
from diffai_jax.losses import regularizers
from diffai_jax.data import Dataset
from diffai_jax.networks import create, ffnn
from diffai_jax.nn.dropout import training_state
from diffai_jax.nn.observation import COLLECTION, observed
from diffai_jax.schedules import Lin
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, make_step
from diffai_jax.types import Mode

network_of = functools.partial(ffnn, 3, (0.4,), (0.5,), hidden=(9,))
NETWORK = network_of()
EPOCH = 3.0


@functools.cache
def first_step(
    network, goal="Mix(Point, Box, 0.5)", regularize=Regularizers(),
    dataset=_DATASET,
):
  """The state after the first step, and what it reports, at epoch 3."""
  step = make_step(
      network, objectives.parse(goal), _optimizer(), dataset, _EPSILON, 5,
      lambda step: step + EPOCH, regularize,
  )
  state = create_state(network, _optimizer(), dataset.image_shape, seed=1)
  state, metrics = step(state, *data_of(dataset.image_shape))
  return state, {name: float(value) for name, value in metrics.items()}


def data_of(shape):
  """Images and labels of one batch, split over the devices."""
  if shape == _DATASET.image_shape:
    return _data()
  rng = np.random.default_rng(1)
  split = (jax.local_device_count(), -1)
  images = rng.integers(0, 256, (_BATCH, *shape)).astype(np.uint8)
  labels = rng.integers(0, 3, _BATCH).astype(np.int32)
  return images.reshape(*split, *shape), labels.reshape(split)


def metrics_of(network, goal="Mix(Point, Box, 0.5)", regularize=Regularizers()):
  """What the first step reports, at epoch 3."""
  return first_step(network, goal, regularize)[1]


@jax.jit
def terms(params, scale):
  """Tightness and balance of the input box, its radius multiplied."""
  images = np.reshape(_data()[0], (_BATCH, 4, 4, 1)).astype(np.float32) / 255
  low, high = goals.ball(jnp.asarray(images), _EPSILON)
  center, radius = (low + high) / 2, scale * (high - low) / 2
  box = domains.from_bounds(center - radius, center + radius)
  _, shown = NETWORK.apply(
      {"params": params}, box, Mode.TRAIN, mutable=[COLLECTION]
  )
  ((first,),) = observed(shown, "input")
  inputs = [call[0] for call in observed(shown, "before ReLU")]
  return jnp.stack([regularizers.tightness(first, inputs, 0.9),
                    regularizers.relu_balance(inputs, 0.9)])


@jax.jit
def added_and_slope(weights, params):
  """What terms of these weights add to the loss, and its gradient."""
  return jax.value_and_grad(lambda p: weights @ terms(p, 1.0))(params)


@pytest.mark.parametrize("one, two", [
    (0.5, 0), (0, Lin(0, 2, 6)), (Lin(1, 0, 4), 3)
])
def test_regularisers_are_added_with_their_weights(one, two):
  """To the loss and its gradient, which SGD follows; numbers and schedules."""
  plain, before = first_step(NETWORK)
  found, reported = first_step(NETWORK, regularize=Regularizers(one, two, 0.9))
  weights = np.float32([w(EPOCH) if callable(w) else w for w in (one, two)])
  # One element of the Mix has bounds, the box.
  added, slope = added_and_slope(weights, _state(NETWORK).params)
  assert added > 0.03
  np.testing.assert_allclose(
      reported["loss"], before["loss"] + float(added), rtol=1e-5
  )
  jax.tree.map(
      lambda got, without, gradient: np.testing.assert_allclose(
          got, without - _RATE * np.asarray(gradient), rtol=1e-4, atol=1e-5
      ),
      found.params, jax.device_get(plain.params), slope,
  )
  assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(slope)) > 1e-3


def test_the_elements_of_a_mix_have_the_mean_of_their_terms():
  goal = "Mix(Box, Sub(0.5, Box), 0.25)"
  plain = metrics_of(NETWORK, goal)["loss"]
  found = metrics_of(NETWORK, goal, Regularizers(2, 1, 0.9))["loss"]
  params = _state(NETWORK).params
  one, two = (np.asarray(terms(params, scale)) for scale in (1.0, 0.5))
  assert np.max(np.abs(one - two)) > 1e-3
  expected = plain + float(np.array([2, 1]) @ (one + two) / 2)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_points_alone_have_no_bounds_to_regularise():
  regularize = Regularizers(1.0, 1.0)
  assert metrics_of(NETWORK, "Point", regularize) == metrics_of(
      NETWORK, "Point"
  )


def test_dropout_takes_part_in_a_step():
  """At rate 0 it changes nothing; later the loss is another's."""
  without = metrics_of(NETWORK)["loss"]
  none, some = (
      metrics_of(network_of(dropout=Lin(0, rate, EPOCH)))["loss"]
      for rate in (0.0, 0.5)
  )
  assert none == pytest.approx(without, rel=1e-6)
  assert abs(some - without) > 1e-3 and np.isfinite(some)


def test_a_convolutional_network_with_scheduled_dropout():
  """A step trains all its weights; only training has dropout."""
  size = (12, 12, 1)
  plain, network = (
      create("ConvSmall", 3, (0.4,), (0.5,), dropout=dropout)
      for dropout in (0, Lin(0, 0.4, 6))
  )
  before = create_state(network, _optimizer(), size, seed=1).params
  state, reported = first_step(
      network, dataset=Dataset(size, 3, (0.4,), (0.5,), _EPSILON)
  )
  assert all(map(np.isfinite, reported.values()))
  moved = jax.tree.map(
      lambda old, new: float(np.max(np.abs(np.asarray(new) - old))),
      jax.device_get(before), state.params,
  )
  assert all(0 < change < np.inf for change in jax.tree.leaves(moved))

  images = data_of(size)[0].reshape(-1, *size)[:3].astype(np.float32) / 255
  params = {"params": state.params}
  # Outside training it is off also for a run that knows the epoch.
  known = params | training_state(EPOCH, jax.random.split(jax.random.key(0), 3))
  for mode in (Mode.CONCRETE, Mode.CERTIFY):

    @jax.jit
    def outputs(variables, images):
      value = images if mode is Mode.CONCRETE else domains.box(
          images, jnp.full(images.shape, 0.05)
      )
      return [net.apply(v, value, mode)
              for net, v in zip((plain, network, network), variables)]

    expected, *others = outputs((params, params, known), images)
    for found in others:
      # Leaves alone: each run's symbols have names of their own.
      for ours, theirs in zip(
          jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
