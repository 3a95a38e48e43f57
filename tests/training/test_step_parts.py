"""Parts of the training step: regularisers, dropout, random goals, devices."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import _BATCH, _EPSILON, _ROOT, _DATASET, _data, _optimizer
from test_step import _state

from diffai_jax import domains, goals, regularizers
from diffai_jax.networks import FFNN
from diffai_jax.nn.observation import COLLECTION, observed
from diffai_jax.schedules import Lin
from diffai_jax.training.step import Regularizers, make_step
from diffai_jax.types import Mode

NETWORK = FFNN(3, (0.4,), (0.5,), hidden=(9, 8))
EPOCH = 3.0


def metrics_of(network, goal="Mix(Point, Box, 0.5)", regularize=Regularizers()):
  """What the first step reports, at epoch 3."""
  step = make_step(
      network, goals.parse(goal), _optimizer(), _DATASET, _EPSILON, 5,
      lambda step: step + EPOCH, regularize,
  )
  _, metrics = step(_state(network), *_data())
  return {name: float(value) for name, value in metrics.items()}


def terms() -> tuple[float, float]:
  """Tightness and balance of the input box, before the first step."""
  images = np.reshape(_data()[0], (_BATCH, 4, 4, 1)).astype(np.float32) / 255
  box = domains.from_bounds(*goals.ball(jnp.asarray(images), _EPSILON))
  params = _state(NETWORK).params
  _, shown = NETWORK.apply(
      {"params": params}, box, Mode.TRAIN, mutable=[COLLECTION]
  )
  ((first,),) = observed(shown, "input")
  inputs = [call[0] for call in observed(shown, "before ReLU")]
  return (float(regularizers.tightness(first, inputs, 0.9)),
          float(regularizers.relu_balance(inputs, 0.9)))


def test_regularisers_are_added_with_their_weights():
  """Numbers and schedules; one element of the Mix has bounds, the box."""
  plain = metrics_of(NETWORK)["loss"]
  tightness, balance = terms()
  assert balance > 0.05
  for one, two in ((0.5, 0), (0, Lin(0, 2, 6)), (Lin(1, 0, 4), 3)):
    found = metrics_of(
        NETWORK, regularize=Regularizers(one, two, 0.9)
    )["loss"]
    weights = [w(EPOCH) if callable(w) else w for w in (one, two)]
    expected = plain + weights[0] * tightness + weights[1] * balance
    np.testing.assert_allclose(found, float(expected), rtol=1e-5)


def test_points_alone_have_no_bounds_to_regularise():
  regularize = Regularizers(1.0, 1.0)
  assert metrics_of(NETWORK, "Point", regularize) == metrics_of(
      NETWORK, "Point"
  )


def test_dropout_takes_part_in_a_step():
  """At rate 0 it changes nothing; later the loss is another's."""
  without = metrics_of(NETWORK)["loss"]
  none, some = (
      metrics_of(NETWORK.clone(dropout=Lin(0, rate, EPOCH)))["loss"]
      for rate in (0.0, 0.5)
  )
  assert none == pytest.approx(without, rel=1e-6)
  assert abs(some - without) > 1e-3 and np.isfinite(some)


def test_abstract_runs_without_training_state_have_no_dropout():
  network = NETWORK.clone(dropout=0.5)
  params = {"params": _state(network).params}
  images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, 1)))
  np.testing.assert_array_equal(
      network.apply(params, images), NETWORK.apply(params, images)
  )
  one, two = (
      net.apply(params, domains.box(images, 0.1 + 0 * images), Mode.CERTIFY)
      for net in (network, NETWORK)
  )
  np.testing.assert_array_equal(one.uncorrelated, two.uncorrelated)


_TWO_DEVICES = """
    import jax
    import numpy as np
    from diffai_jax import goals
    from diffai_jax.data import Dataset
    from diffai_jax.networks import FFNN
    from diffai_jax.training import optimizers
    from diffai_jax.training.state import create_state
    from diffai_jax.training.step import Regularizers, make_step
    from ml_collections import config_dict

    assert jax.local_device_count() == 2
    network = FFNN(3, (0.4,), (0.5,), hidden=(9, 8), dropout=0.3)
    optimizer = optimizers.create(config_dict.ConfigDict(dict(
        name="sgd", learning_rate=0.1, milestones=(), decay=0.1,
        momentum=0.0, l2=0.0, clip_norm=1.0)), lambda step: step)
    data = Dataset((4, 4, 1), 3, (0.4,), (0.5,), 0.1, crop_padding=1)
    goal = goals.parse(
        "Weighted((PGD(2, 0.5, 2), 1), (Sample(0.5, 0.5, Normal, Box), 1),"
        " (Coin((NormalSub(1, Box), 1), (Uniform, 1)), 1))")
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 12, 4, 4, 1)).astype(np.uint8)
    labels = random.integers(0, 3, (3, 12)).astype(np.int32)

    def run(devices):
      step = make_step(network, goal, optimizer, data, 0.1, 5,
                       lambda step: step + 1.0, Regularizers(0.5, 0.5, 0.9))
      state = create_state(network, optimizer, (4, 4, 1), seed=1)
      rows = []
      for x, y in zip(images, labels):
        state, metrics = jax.block_until_ready(step(
            state, x.reshape(devices, -1, 4, 4, 1), y.reshape(devices, -1)))
        rows.append([float(metrics[name]) for name in sorted(metrics)])
      flat = [np.ravel(x) for x in jax.tree.leaves(state.params)]
      return np.concatenate(flat), np.array(rows)

    (one, reported_one), (two, reported_two) = run(1), run(2)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reported_two, reported_one, rtol=1e-4, atol=1e-5)
    print("equal")
"""


def test_random_goals_dropout_and_regularisers_on_two_devices_equal_one():
  """Draws follow the example, means are those of the whole batch."""
  path = os.pathsep.join(filter(None, (
      str(_ROOT), os.environ.get("PYTHONPATH")
  )))
  run = subprocess.run(
      [sys.executable, "-c", textwrap.dedent(_TWO_DEVICES)],
      env=os.environ | {
          "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
          "PYTHONPATH": path, "JAX_PLATFORMS": "cpu",
      },
      capture_output=True, text=True, timeout=300, check=False,
  )
  assert run.returncode == 0, run.stderr
  assert run.stdout == "equal\n"
