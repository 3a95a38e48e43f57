"""Training with several steps in one dispatch, on digits, in tiny runs."""

import functools

import jax
import numpy as np
import pytest

from diffai_jax.app import job, train
from diffai_jax.app.config import base_config
from diffai_jax.data import load
from diffai_jax.kernels import platforms
from diffai_jax.networks import NETWORKS, ffnn
from diffai_jax.training.state import create_state

_BATCH, _STEPS = 220, 6  # Steps of an epoch of 1,437 training images.


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
  monkeypatch.setitem(NETWORKS, "Tiny", functools.partial(ffnn, hidden=(12,)))


def _job(**values) -> job.Job:
  config = base_config("digits")
  config.network = "Tiny"
  # Of step 0 the box has no weight: it is another program.
  config.goal = "Mix(Point, Sub(Lin(0, 1, 1), Box), Lin(0, 0.5, 1))"
  config.epochs = 2.0
  config.batch_size = _BATCH
  config.update(values)
  return job.Job.from_config(config)


def _trained(monkeypatch, made: job.Job, first=None):
  """The last state, the rows, and (step, how many) of each dispatch."""
  make_step, dispatches = job.make_step, []

  def noting(*args):
    step, count = make_step(*args), args[-1]

    def noted(state, *batch):
      dispatches.append((int(state.step), count))
      return step(state, *batch)

    return noted

  state = first or create_state(
      made.network, made.optimizer(_STEPS), (8, 8, 1), made.config.seed
  )
  rows = []
  with monkeypatch.context() as patch:
    patch.setattr(job, "make_step", noting)
    state = train.take_steps(
        made, load("digits", "train"), state,
        lambda number, row: rows.append((number, row)), epoch_rows=True,
    )
  return state, rows, dispatches


def test_groups_train_as_single_steps_do(monkeypatch):
  """Cut where the objective's program changes and at the ends of epochs."""
  one, rows, dispatches = _trained(monkeypatch, _job())
  assert dispatches == [(n, None) for n in range(2 * _STEPS + 1)]
  several, grouped, dispatches = _trained(
      monkeypatch, _job(steps_per_dispatch=4)
  )
  assert dispatches == [
      (0, None), (1, 4), (5, None), (6, 4), (10, None), (11, None), (12, None)
  ]
  for ours, theirs in zip(jax.tree.leaves(several), jax.tree.leaves(one)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
  assert [number for number, _ in grouped] == [number for number, _ in rows]
  for (_, row), (_, expected) in zip(grouped, rows):
    assert set(row) == set(expected)
    for name in set(row) - {"examples_per_second"}:
      assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("given, backend, expected", [
    (None, "cpu", 1), (4, "cpu", 4), (100, "cpu", _STEPS), (1, "gpu", 1),
])
def test_how_many_go_together(monkeypatch, given, backend, expected):
  """The config's number, at most an epoch's; else the platform's."""
  monkeypatch.setattr(platforms.jax, "default_backend", lambda: backend)
  assert _job(steps_per_dispatch=given).steps_per_dispatch(_STEPS) == expected


@pytest.mark.parametrize("most, steps, expected", [
    (32, 22, 22), (16, 22, 11), (16, 467, 15), (1, 22, 1), (7, 3, 3),
])
def test_an_epoch_is_split_evenly(monkeypatch, most, steps, expected):
  """Little is left over to go one by one."""
  monkeypatch.setattr(platforms, "steps_per_dispatch", lambda flops: most)
  count = _job().steps_per_dispatch(steps)
  assert count == expected and steps % count < steps // count + count


def test_the_platform_is_told_what_a_device_computes(monkeypatch):
  """Of its share of the batch: 9 forward passes of two dense layers, at least."""
  told = []
  monkeypatch.setattr(
      platforms, "steps_per_dispatch", lambda flops: told.append(flops()) or 1
  )
  _job().steps_per_dispatch(_STEPS)
  products = 64 * 12 + 12 * 10
  share = _BATCH // jax.device_count()
  assert 1 <= told[0] / (9 * 2 * products * share) < 1.5
