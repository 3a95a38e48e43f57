"""Whole training steps of batch-normalised networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from test_step import _BATCH, _DATASET, _EPSILON, _RATE, _data, _objective
from test_step import _optimizer, run_on_two_devices
from weights import layers

from diffai_jax import objectives
from diffai_jax.goals.points import Point
from diffai_jax.networks import ffnn
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step
from diffai_jax.types import Mode

NETWORK = ffnn(3, (0.4,), (0.5,), hidden=(9,), batch_norm=True)


def normalisation(tree):
  """The dict with "scale" in it, or with "mean": there is one in each."""
  if "scale" in tree or "mean" in tree:
    return tree
  found = [normalisation(v) for v in tree.values() if isinstance(v, dict)]
  return next((each for each in found if each is not None), None)


def objective(params, images, labels):
  """`_objective` with the batch's own statistics in the hidden layer.

  Returns:
    The loss, and (what the step reports, statistics).
  """
  hidden, last = layers(params)
  norm = normalisation(params)
  x = jnp.reshape(images, (_BATCH, 16)).astype(jnp.float32) / 255
  before = (x - 0.4) / 0.5 @ hidden["kernel"] + hidden["bias"]
  mean = jnp.sum(before, 0) / _BATCH
  variance = jnp.sum((before - mean) ** 2, 0) / _BATCH
  by = norm["scale"] / jnp.sqrt(variance + 1e-5)
  normalised = {
      "kernel": hidden["kernel"] * by,
      "bias": (hidden["bias"] - mean) * by + norm["bias"],
  }
  loss, reported = _objective(
      {"layers_0": normalised, "layers_1": last}, images, labels, 1.0, 0.5
  )
  return loss, (reported, {"mean": mean, "variance": variance})


def state_of(network, rng):
  """Every number of its weights random: also scales and biases."""
  state = create_state(network, _optimizer(), (4, 4, 1), seed=1)
  return dataclasses.replace(state, params=jax.tree.map(
      lambda w: w + 0.2 * rng.normal(size=w.shape).astype(w.dtype),
      state.params,
  ))


def step_of(network, goal, epsilon=_EPSILON):
  return make_step(
      network, goal, _optimizer(), _DATASET, epsilon, seed=5,
      epoch_of=lambda step: step / 2,
  )


def test_steps_follow_the_objective_with_the_batchs_statistics():
  """Loss, gradient and metrics are those of plain JAX; statistics move."""
  state = state_of(NETWORK, np.random.default_rng(7))
  step = step_of(NETWORK, objectives.parse("Mix(Point, Box, 0.5)"))
  params = jax.tree.map(np.asarray, state.params)
  kept = {"mean": np.zeros(9), "variance": np.ones(9)}
  reference = jax.jit(jax.value_and_grad(objective, has_aux=True))
  for number in range(3):
    images, labels = _data(number)
    (loss, (wanted, batch)), gradient = reference(params, images, labels)
    state, metrics = step(state, images, labels)
    params = jax.tree.map(lambda w, g: w - _RATE * g, params, gradient)
    kept = {name: 0.9 * kept[name] + 0.1 * batch[name] for name in kept}
    close = lambda got, want: np.testing.assert_allclose(
        got, want, rtol=1e-4, atol=1e-5
    )
    jax.tree.map(close, state.params, params)
    jax.tree.map(close, normalisation(state.statistics), kept)
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
    wanted |= {"loss": loss, "gradient_norm": np.linalg.norm(flat)}
    assert set(metrics) == set(wanted)
    for name, value in wanted.items():
      np.testing.assert_allclose(
          metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name
      )
  # A layer's bias before its normalisation has no effect at all.
  np.testing.assert_allclose(layers(gradient)[0]["bias"], 0, atol=1e-6)
  assert np.max(np.abs(layers(gradient)[0]["kernel"])) > 1e-2


def test_attacks_see_the_network_that_is_trained():
  """What they run has the statistics of the clean images too."""
  seen = []

  class Agreement(Point):
    """The image itself; the loss is how far an attack's output is off."""

    def abstract(self, lower, upper, context):
      seen.append(context.forward(lower, Mode.CONCRETE))
      return lower

    def loss(self, output, labels, context):
      return jnp.max(jnp.abs(output - seen[-1]), axis=-1)

  state = state_of(NETWORK, np.random.default_rng(8))
  _, metrics = step_of(NETWORK, Agreement(), 0.0)(state, *_data())
  assert float(metrics["loss"]) < 1e-5
  assert float(metrics["largest_bound"]) > 0.1


_TWO_DEVICES = """
    import jax
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    import jax.numpy as jnp
    import numpy as np
    from diffai_jax import objectives
    from diffai_jax.data import Dataset
    from diffai_jax.networks import convnet
    from diffai_jax.nn.batch_norm import POPULATION, batch_statistics
    from diffai_jax.training import optimizers
    from diffai_jax.training.state import create_state
    from diffai_jax.training.step import make_step
    from diffai_jax.types import AXIS
    from ml_collections import config_dict

    assert jax.local_device_count() == 2
    network = convnet(3, (0.4,), (0.5,), ((4, 3, 1),), 1, (6,),
                      batch_norm=True)
    optimizer = optimizers.create(config_dict.ConfigDict(dict(
        name="sgd", learning_rate=0.1, milestones=(), decay=0.1,
        momentum=0.9, l2=0.0, clip_norm=1e9)), lambda step: step)
    data = Dataset((4, 4, 1), 3, (0.4,), (0.5,), 0.1, crop_padding=1)
    goal = objectives.parse("Mix(PGD(1, 1), Box, 0.5)")
    random = np.random.default_rng(0)
    # The second half is brighter, and varies less.
    high = np.where(np.arange(8) < 4, 200, 255).reshape(1, 8, 1, 1, 1)
    low = np.where(np.arange(8) < 4, 0, 220).reshape(1, 8, 1, 1, 1)
    images = random.integers(low, high, (3, 8, 4, 4, 1)).astype(np.uint8)
    labels = random.integers(0, 3, (3, 8)).astype(np.int32)

    def flat(tree):
      return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

    def run(devices):
      step = make_step(network, goal, optimizer, data, 0.1, 5,
                       lambda step: step + 1.0)
      state = create_state(network, optimizer, (4, 4, 1), seed=1)
      variables = {"params": state.params, POPULATION: state.statistics}
      statistics = jax.pmap(
          lambda x: batch_statistics(network, variables, x, AXIS),
          axis_name=AXIS
      )(images[0].reshape(devices, -1, 4, 4, 1) / np.float32(255))
      for leaf in jax.tree.leaves(statistics):
        np.testing.assert_array_equal(leaf, leaf[:1].repeat(devices, 0))
      rows = []
      for x, y in zip(images, labels):
        state, metrics = jax.block_until_ready(step(
            state, x.reshape(devices, -1, 4, 4, 1), y.reshape(devices, -1)))
        rows.append([float(metrics[name]) for name in sorted(metrics)])
      for leaf in jax.tree.leaves(state):
        assert leaf.is_fully_replicated and len(leaf.devices()) == devices
      return (flat(jax.tree.map(lambda x: x[0], statistics)),
              flat(state.params), flat(state.statistics), np.array(rows))

    for one, two in zip(run(1), run(2)):
      assert one.size
      np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    print("equal")
"""


def test_two_devices_equal_one():
  """Statistics are those of all devices' images, and carry a gradient."""
  run_on_two_devices(_TWO_DEVICES)
