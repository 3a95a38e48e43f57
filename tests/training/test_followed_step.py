"""Training with goals that follow their element through the network."""

import dataclasses
import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import _DATASET, _EPSILON, _data, _optimizer

from diffai_jax.goals import Context, ball
from diffai_jax.graph import named_by_layers
from diffai_jax.networks import PlainNetwork
from diffai_jax.nn import (
    BatchNorm,
    CorrelateAll,
    DeepLoss,
    Dropout,
    Flatten,
    Linear,
    Normalize,
    ReLU,
    Sequential,
    batch_norm,
    deep_loss,
    dropout,
    par_sum,
)
from diffai_jax.objectives import objective
from diffai_jax.schedules import Lin
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, make_step
from diffai_jax.types import Mode

EVERYTHING = Sequential((
    Sequential((Normalize((0.4,), (0.5,)), Flatten())),
    Sequential((Linear(6), BatchNorm(), ReLU(), Dropout(0.3))),
    Sequential((
        par_sum([], [Linear(6), DeepLoss(Lin(0, 0.4, 4))]), ReLU(),
        CorrelateAll(), Linear(3),
    )),
))


@pytest.mark.parametrize("goal, epsilon", [
    ("Mix(Point, CROWN_IBP(0.6, fusion=1), 0.5)", _EPSILON),
    ("SmallBox(0.4, PGD(1, 1), TAPS(1, steps=2))", 0.4 * _EPSILON),
])
def test_a_few_steps_lower_the_loss(goal, epsilon):
  """With batch statistics, dropout, regularisers, deep loss, in parts, on all
  devices."""
  optimizer = optax.adam(0.03)
  step = make_step(
      EVERYTHING, objective(goal), optimizer, _DATASET, _EPSILON, 5,
      lambda step: 1.0 + 0 * step, Regularizers(0.1, 0.1), accumulate=2,
  )
  state = create_state(EVERYTHING, optimizer, (4, 4, 1), seed=1)
  losses = []
  for _ in range(10):
    state, metrics = step(state, *_data())
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.9 * losses[0], losses
  assert 0 <= metrics["verified"] <= 1
  assert metrics["epsilon"] == pytest.approx(epsilon, rel=1e-5)


def loss_of(network, state, goal, params):
  """The loss of a batch as a step computes it, deep loss included."""
  images, labels = (a.reshape((-1,) + a.shape[2:]) for a in _data())
  images = images / np.float32(255)
  keys = jax.random.split(jax.random.key(0), len(images))
  variables = state.variables | {"params": params}
  variables[batch_norm.BATCH] = batch_norm.batch_statistics(
      network, variables, images
  )
  variables |= dropout.training_state(1.0, keys)
  context = Context(
      lambda value, mode: network.apply(variables, value, mode),
      jnp.asarray(labels), jnp.float32(1), keys, images=images,
  )
  value = goal.abstract(*ball(images, _EPSILON), context)
  with named_by_layers():
    output, sown = network.apply(
        variables, value, Mode.TRAIN, mutable=[deep_loss.COLLECTION]
    )
  losses = goal.loss(output, context.labels, context)
  return deep_loss.mix_in(losses, sown, 1.0).mean()


def gradient_of(network, state):
  return jax.jit(jax.value_and_grad(functools.partial(
      loss_of, network, state, objective("CROWN_IBP")
  )))(state.params)


def assert_alike(first, second):
  compare = functools.partial(
      np.testing.assert_allclose, rtol=1e-4, atol=1e-6
  )
  jax.tree.map(compare, first, second)


def test_rematerialised_stages_are_followed():
  """Also where a stage has a residual sum, and symbols are made in it."""
  network = Sequential((
      Sequential((Flatten(), Linear(5))),
      Sequential((ReLU(), CorrelateAll(), par_sum([], [Linear(5), ReLU()]))),
      Sequential((Linear(3),)),
  ))
  state = create_state(network, _optimizer(), (4, 4, 1), seed=1)
  assert_alike(*(
      gradient_of(network.clone(remat=remat), state)
      for remat in (False, True)
  ))


class Plain(flax.linen.Module):
  """Plain layers, with batch statistics, read by `from_jax` in the step."""

  @flax.linen.compact
  def __call__(self, x, train: bool = False):
    x = flax.linen.Dense(6)(x.reshape(x.shape[0], -1))
    x = flax.linen.BatchNorm(not train, epsilon=1e-5)(x)
    return flax.linen.Dense(3)(jax.nn.relu(x))


def test_plain_modules_are_followed():
  """As the same network of our own layers is."""
  plain = PlainNetwork(Plain())
  own = Sequential((Flatten(), Linear(6), BatchNorm(), ReLU(), Linear(3)))
  state = create_state(plain, _optimizer(), (4, 4, 1), seed=1)
  twin = create_state(own, _optimizer(), (4, 4, 1), seed=2)
  names = {"layers_1": "Dense_0", "layers_2": "BatchNorm_0",
           "layers_4": "Dense_1"}
  twin = dataclasses.replace(twin, params={
      name: state.params[other] for name, other in names.items()
  })
  value, gradient = gradient_of(plain, state)
  assert_alike(gradient_of(own, twin), (
      value, {name: gradient[other] for name, other in names.items()}
  ))
