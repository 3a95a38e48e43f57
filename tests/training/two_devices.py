"""What the process of `test_two_devices` does: it has two CPU devices.

Each check trains alike on one device and on two; each prints how it ended, as
one JSON object. One process for all of them, as starting it takes most.
"""

import json
import traceback

import jax
from ml_collections import config_dict
import numpy as np

import diffai_jax as dj
from diffai_jax import objectives
from diffai_jax.data import Dataset
from diffai_jax.networks import convnet, ffnn
from diffai_jax.nn.batch_norm import POPULATION, batch_statistics
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, make_step
from diffai_jax.types import AXIS

CHECKS = []


def check(function):
  """Marks what is run; it returns what the test wants to see, or None."""
  CHECKS.append(function)
  return function


def optimizer_of(epoch_of=lambda step: step, **values):
  return optimizers.create(config_dict.ConfigDict({
      "name": "sgd", "learning_rate": 0.1, "milestones": (), "decay": 0.1,
      "momentum": 0.0, "l2": 0.0, "clip_norm": 1e9,
  } | values), epoch_of)


def dataset_of(**values):
  return Dataset((4, 4, 1), 3, (0.4,), (0.5,), 0.1, crop_padding=1, **values)


def batches(steps):
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (steps, 12, 4, 4, 1)).astype(np.uint8)
  labels = random.integers(0, 3, (steps, 12)).astype(np.int32)
  return list(zip(images, labels))


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def trained(devices, step, state, data):
  """The state after the batches, and what each step reports: [steps, names]."""
  rows = []
  for x, y in data:
    state, metrics = jax.block_until_ready(step(
        state, x.reshape(devices, -1, 4, 4, 1), y.reshape(devices, -1)
    ))
    rows.append([float(metrics[name]) for name in sorted(metrics)])
  for leaf in jax.tree.leaves(state):
    assert leaf.is_fully_replicated and len(leaf.devices()) == devices
  return state, np.array(rows)


def assert_equal(one, two):
  for wanted, found in zip(one, two, strict=True):
    assert wanted.size
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@check
def augmentation():
  """Adam, an L2 term and clipping, with crops and flips."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(5,))
  optimizer = optimizer_of(
      lambda step: step / 2, name="adam", learning_rate=0.01, l2=0.001,
      clip_norm=1.0,
  )
  step = make_step(
      network, objectives.parse("Sub(Lin(0, 1, 1), Box)"), optimizer,
      dataset_of(flip=True), 0.1, 5, lambda step: step / 2,
  )

  def run(devices):
    state = create_state(network, optimizer, (4, 4, 1), seed=1)
    state, rows = trained(devices, step, state, batches(3))
    return flat(state.params), rows

  assert_equal(run(1), run(2))


@check
def everything_random():
  """Draws follow the example, means are those of the whole batch."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(9,), dropout=0.3)
  optimizer = optimizer_of(clip_norm=1.0)
  goal = objectives.parse(
      "Weighted((PGD(2, 0.5, 2), 1),"
      " (Mix(Point, Sample(0.5, 0.5, Normal, Box), 0.5), 1),"
      " (Coin((NormalSub(1, Box), 1), (Uniform, 1)), 1))"
  )
  step = make_step(
      network, goal, optimizer, dataset_of(), 0.1, 5, lambda step: step + 1.0,
      Regularizers(0.5, 0.5, 0.9),
  )

  def run(devices):
    state = create_state(network, optimizer, (4, 4, 1), seed=1)
    state, rows = trained(devices, step, state, batches(2))
    return flat(state.params), rows

  assert_equal(run(1), run(2))


@check
def parts():
  """Three parts a device on two, against the whole on one."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(5,))
  optimizer = optimizer_of()

  def run(devices, accumulate):
    step = make_step(
        network, objectives.parse("Sample(0.5, 0.5, Normal, Box)"), optimizer,
        dataset_of(), 0.1, 5, lambda step: step + 1.0, accumulate=accumulate,
    )
    state = create_state(network, optimizer, (4, 4, 1), seed=1)
    state, rows = trained(devices, step, state, batches(2))
    return flat(state.params), rows

  assert_equal(run(1, 1), run(2, 3))


@check
def batch_normalisation():
  """Statistics are those of all devices' images, and carry a gradient."""
  network = convnet(
      3, (0.4,), (0.5,), ((4, 3, 1),), 1, (6,), batch_norm=True
  )
  optimizer = optimizer_of(momentum=0.9)
  random = np.random.default_rng(0)
  # The second half is brighter, and varies less.
  high = np.where(np.arange(8) < 4, 200, 255).reshape(1, 8, 1, 1, 1)
  low = np.where(np.arange(8) < 4, 0, 220).reshape(1, 8, 1, 1, 1)
  images = random.integers(low, high, (3, 8, 4, 4, 1)).astype(np.uint8)
  labels = random.integers(0, 3, (3, 8)).astype(np.int32)
  step = make_step(
      network, objectives.parse("Mix(PGD(1, 1), Box, 0.5)"), optimizer,
      dataset_of(), 0.1, 5, lambda step: step + 1.0,
  )

  def run(devices):
    state = create_state(network, optimizer, (4, 4, 1), seed=1)
    variables = {"params": state.params, POPULATION: state.statistics}
    statistics = jax.pmap(
        lambda x: batch_statistics(network, variables, x, AXIS),
        axis_name=AXIS,
    )(images[0].reshape(devices, -1, 4, 4, 1) / np.float32(255))
    for leaf in jax.tree.leaves(statistics):
      leaf = np.asarray(leaf)
      np.testing.assert_array_equal(leaf, leaf[:1].repeat(devices, 0))
    state, rows = trained(devices, step, state, zip(images, labels))
    first = jax.tree.map(lambda x: np.asarray(x)[0], statistics)
    return flat(first), flat(state.params), flat(state.statistics), rows

  assert_equal(run(1), run(2))


@check
def arrays():
  """What Python trains, with the batch size that fits two devices."""
  random = np.random.default_rng(0)
  data = random.random((31, 5)), random.integers(0, 2, 31)
  run = dj.train(
      dj.nn.Linear(2), data, epochs=2, goal="Box", progress=False
  )
  assert run.config.batch_size == 30, run.config.batch_size
  kernel = run.variables["params"]["kernel"]
  assert len(kernel.devices()) == 1
  return np.asarray(kernel).tolist()


def ending(function):
  try:
    return {"found": function()}
  except Exception:  # Told, so that the other checks have a say.
    return {"error": traceback.format_exc()}


if __name__ == "__main__":
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  assert jax.local_device_count() == 2
  print(json.dumps({each.__name__: ending(each) for each in CHECKS}))
