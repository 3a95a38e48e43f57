"""Whole training steps of batch-normalised networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from test_step import _BATCH, _DATASET, _EPSILON, _RATE, _data, _objective
from test_step import _optimizer, _state
from weights import layers

from diffai_jax import objectives
from diffai_jax.goals.points import Point
from diffai_jax.networks import ffnn
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
  state = _state(network)
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
    gradient, batch = jax.device_get((gradient, batch))
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
