"""The pmapped step against the objective written out in plain JAX."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import pytest
from weights import layers

from diffai_jax import objectives
from diffai_jax.data import Dataset
from diffai_jax.networks import ffnn
from diffai_jax.training import optimizers
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.training.step import example_keys, make_step
from diffai_jax.types import AXIS

_DATASET = Dataset((4, 4, 1), 3, (0.4,), (0.5,), epsilon=0.1)
_EPSILON = 0.1
_BATCH = 12
_EPOCH_STEPS = 2  # Steps an epoch.
_RATE = 0.5


def _network() -> nn.Module:
  return ffnn(3, (0.4,), (0.5,), hidden=(9,))


def _optimizer(name: str = "sgd"):
  config = config_dict.ConfigDict({
      "name": name, "learning_rate": _RATE, "milestones": (), "decay": 0.1,
      "momentum": 0.0, "l2": 0.0, "clip_norm": 1e9,
  })
  return optimizers.create(config, lambda step: step / _EPOCH_STEPS)


def _data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Images and labels as the step takes them, split over the devices."""
  random = np.random.default_rng(seed)
  devices = jax.local_device_count()
  images = random.integers(0, 256, (_BATCH, 4, 4, 1)).astype(np.uint8)
  labels = random.integers(0, 3, _BATCH).astype(np.int32)
  return (
      images.reshape(devices, -1, 4, 4, 1),
      labels.reshape(devices, -1),
  )


def _step(network, text: str):
  return make_step(
      network, objectives.parse(text), _optimizer(), _DATASET, _EPSILON, seed=5,
      epoch_of=lambda step: step / _EPOCH_STEPS,
  )


def fresh(state: TrainState) -> TrainState:
  """A copy on the same devices, which a step may take as its own."""
  return jax.tree.map(
      lambda leaf: jax.device_put(np.array(leaf), leaf.sharding), state
  )


@functools.cache
def _first_state(network) -> TrainState:
  return create_state(network, _optimizer(), (4, 4, 1), seed=1)


def _state(network) -> TrainState:
  return fresh(_first_state(network))


def _objective(params, images, labels, scale: float, weight: float):
  """(1-λ)·CE(logits) + λ·CE(bounds of z_k - z_y), by interval arithmetic.

  Returns:
    The loss, and what else the step reports.
  """
  images = jnp.reshape(images, (_BATCH, 16)).astype(jnp.float32) / 255
  labels = jnp.reshape(labels, _BATCH)
  low = jnp.clip(images - _EPSILON, 0, 1)
  high = jnp.clip(images + _EPSILON, 0, 1)
  center = (low + high) / 2
  radius = radius_in = scale * (high - low) / 2
  point = center = (center - 0.4) / 0.5
  radius = radius / 0.5
  hidden, last = layers(params)
  for layer in [hidden]:
    kernel, bias = layer["kernel"], layer["bias"]
    point = jnp.maximum(point @ kernel + bias, 0)
    center, radius = center @ kernel + bias, radius @ jnp.abs(kernel)
    low, high = jnp.maximum(center - radius, 0), jnp.maximum(center + radius, 0)
    center, radius = (high + low) / 2, (high - low) / 2
  kernel, bias = last["kernel"], last["bias"]
  logits = point @ kernel + bias
  # The difference of two logits is one affine function of the last layer.
  change = kernel[:, None, :] - kernel[:, :, None]  # [in, y, k]
  bounds = (
      jnp.einsum("bi,iyk->byk", center, change)
      + jnp.einsum("bi,iyk->byk", radius, jnp.abs(change))
      + bias[None, :] - bias[:, None]
  )[jnp.arange(_BATCH), labels]

  def cross_entropy(scores):
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)[:, 0]
    return jnp.log(jnp.sum(jnp.exp(scores), axis=1)) - own

  loss = jnp.mean(
      (1 - weight) * cross_entropy(logits) + weight * cross_entropy(bounds)
  )
  reach = jnp.abs(center @ kernel + bias) + radius @ jnp.abs(kernel)
  others = jnp.arange(3) != labels[:, None]
  return loss, {
      "epsilon": jnp.max(radius_in),
      "largest_bound": jnp.maximum(jnp.max(reach), jnp.max(jnp.abs(logits))),
      "accuracy": jnp.mean(jnp.argmax(logits, axis=1) == labels),
      "verified": jnp.mean(jnp.all((bounds < 0) | ~others, axis=1)),
  }


def test_steps_follow_the_objective_and_report_it():
  """Each step is SGD on the objective at its epoch; metrics are the values."""
  network = _network()
  step = _step(network, "Mix(Point, Sub(Lin(0, 1, 1), Box), Lin(0, 0.8, 2))")
  state = _state(network)
  # Weights large enough for decided ReLUs, wrong classes and proofs; biases
  # other than 0, where a ReLU's gradient is a matter of taste.
  random = np.random.default_rng(7)
  state = dataclasses.replace(
      state,
      params=jax.tree.map(
          lambda w: 3 * w + 0.2 * random.normal(size=w.shape).astype(w.dtype),
          state.params,
      ),
  )
  params = jax.tree.map(np.asarray, state.params)
  reference = jax.jit(jax.value_and_grad(_objective, has_aux=True))
  for number in range(4):
    images, labels = _data(number)
    epoch = number / _EPOCH_STEPS
    (loss, wanted), gradient = reference(
        params, images, labels, min(epoch, 1), 0.8 * min(epoch / 2, 1)
    )
    state, metrics = step(state, images, labels)

    gradient = jax.device_get(gradient)
    params = jax.tree.map(lambda w, g: w - _RATE * g, params, gradient)
    jax.tree.map(
        lambda got, want: np.testing.assert_allclose(
            got, want, rtol=1e-4, atol=1e-5
        ),
        state.params, params,
    )
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
    wanted |= {"loss": loss, "gradient_norm": np.linalg.norm(flat)}
    assert set(metrics) == set(wanted)
    for name, value in wanted.items():
      np.testing.assert_allclose(
          metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name
      )
      assert metrics[name].shape == (), name
    assert state.step == number + 1


def test_the_state_is_donated():
  """What went in is gone, so that weights are held once."""
  network = _network()
  step = _step(network, "Point")
  new, _ = step(_state(network), *_data())
  newer, _ = step(new, *_data())
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(new.params))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(newer))


def test_nothing_recompiles_as_time_passes():
  """Steps, epochs and schedules move; the program is traced once."""
  traces = []

  class Counting(nn.Module):
    """An FFNN that notes every trace of itself."""

    @nn.compact
    def __call__(self, x, mode=None):
      traces.append(1)
      return _network()(x, mode)

  network = Counting()
  state = _state(network)
  step = _step(
      network, "Mix(Point, Sub(Until(1, 0, Lin(0, 1, 3)), Box), Lin(0, 1, 4))"
  )
  traces.clear()
  counts = []
  for number in range(12):
    state, metrics = step(state, *_data(number))
    jax.block_until_ready(metrics)
    counts.append(len(traces))
  assert counts == [1] * 12


@functools.partial(jax.jit, static_argnums=(0, 2))
def keys(count, step, purpose):
  """The keys' numbers of a batch's examples on so many devices."""
  split = jax.vmap(
      lambda _: example_keys(
          jax.random.key(3), step, purpose, _BATCH // count
      ),
      axis_name=AXIS,
  )(jnp.arange(count))
  return jax.random.key_data(split).reshape(_BATCH, -1)


@pytest.mark.parametrize("devices", [2, 4, 12])
def test_keys_do_not_depend_on_the_number_of_devices(devices):
  """An example's key is folded from its index in the whole batch."""

  alone = keys(1, 7, 0)
  np.testing.assert_array_equal(keys(devices, 7, 0), alone)
  assert len({tuple(row) for row in np.asarray(alone)}) == _BATCH


def test_keys_differ_by_step_and_purpose():
  """No two draws of a run share a key."""
  rows = []
  for step in range(3):
    for purpose in range(2):
      rows += map(tuple, np.asarray(keys(1, step, purpose)))
  assert len(set(rows)) == len(rows)


def test_augmentation_is_drawn_by_step_and_seed():
  """With crops and flips, other steps and seeds give other losses."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(5,))
  data = Dataset((4, 4, 1), 3, (0.4,), (0.5,), 0.1, crop_padding=1, flip=True)

  def losses(seed):
    """Of steps 0, 1 and 0 again, on the same images and weights."""
    step = make_step(
        network, objectives.parse("Point"), _optimizer(), data, 0.0, seed,
        lambda step: step / _EPOCH_STEPS,
    )
    found = []
    for number in (0, 1, 0):
      state = dataclasses.replace(
          _state(network), step=jnp.asarray(number, jnp.int32)
      )
      found.append(float(step(state, *_data())[1]["loss"]))
    return found

  first, other = losses(0), losses(1)
  assert first[0] == first[2] != first[1]
  assert other[0] == other[2] != other[1]
  assert first[0] != other[0]
