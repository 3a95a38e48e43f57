"""Several steps in one dispatch against the same steps one by one."""

import jax
from ml_collections import config_dict
import numpy as np

from diffai_jax import objectives
from diffai_jax.data import Dataset
from diffai_jax.networks import ffnn
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step

_DATASET = Dataset(
    (4, 4, 1), 3, (0.4,), (0.5,), epsilon=0.1, crop_padding=1, flip=True
)
_GOAL = "Mix(Point, Sample(0.5, Uniform, Sub(Lin(0, 1, 2), Box)), 0.5)"
_TOGETHER, _BATCH, _SEED = 5, 8, 3


def _optimizer():
  config = config_dict.ConfigDict({
      "name": "adam", "learning_rate": 0.05, "milestones": (1,), "decay": 0.1,
      "momentum": 0.0, "l2": 1e-3, "clip_norm": 1.0,
  })
  return optimizers.create(config, lambda step: step / 3)


def _step(network, **options):
  return make_step(
      network, objectives.parse(_GOAL), _optimizer(), _DATASET, 0.1, _SEED,
      lambda step: step / 3, **options,
  )


def _batches() -> tuple[np.ndarray, np.ndarray]:
  """[steps, devices, b, ...]"""
  random = np.random.default_rng(0)
  devices = jax.local_device_count()
  shape = (_TOGETHER, devices, _BATCH // devices)
  images = random.integers(0, 256, shape + (4, 4, 1)).astype(np.uint8)
  return images, random.integers(0, 3, shape).astype(np.int32)


def test_steps_together_are_those_one_by_one():
  """Random boxes, crops, schedules, milestones: state and metrics."""
  network = ffnn(3, (0.4,), (0.5,), hidden=(9,))
  images, labels = _batches()
  start = lambda: create_state(network, _optimizer(), (4, 4, 1), seed=1)
  single, one = _step(network), start()
  rows = []
  for batch in zip(images, labels):
    one, metrics = jax.block_until_ready(single(one, *batch))
    rows.append(metrics)
  together = _step(network, together=_TOGETHER)
  several, metrics = together(
      start(), images.swapaxes(0, 1), labels.swapaxes(0, 1)
  )
  assert int(several.step) == int(one.step) == _TOGETHER
  assert set(metrics) == set(rows[0])
  for name, column in metrics.items():
    assert column.shape == (_TOGETHER,)
    expected = [float(row[name]) for row in rows]
    np.testing.assert_allclose(column, expected, rtol=1e-6, atol=1e-6)
  for ours, theirs in zip(jax.tree.leaves(several), jax.tree.leaves(one)):
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
  losses = np.asarray(metrics["loss"])
  assert len(set(losses.tolist())) == _TOGETHER  # Each step is one of its own.
