"""A step whose gradient computes each stage of the network once more."""

import dataclasses
import functools

import jax
import numpy as np
from test_step import _DATASET, _EPSILON, _data, _optimizer, fresh

from diffai_jax import objectives
from diffai_jax.nn import (
    BatchNorm,
    DeepLoss,
    Dropout,
    Flatten,
    Linear,
    Normalize,
    ReLU,
    Sequential,
    par_sum,
)
from diffai_jax.schedules import Lin
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, make_step

START = Sequential((Normalize((0.4,), (0.5,)), Flatten()))
EVERYTHING = Sequential((
    START,
    Sequential((Linear(6), BatchNorm(), ReLU(), Dropout(0.3))),
    Sequential((
        par_sum([], [Linear(6), BatchNorm(), DeepLoss(Lin(0, 0.4, 4))]), ReLU()
    )),
    Linear(3),
))


def step_of(network, remat, **arguments):
  return make_step(
      network.clone(remat=remat), objectives.parse("Mix(Point, Box, 0.5)"),
      _optimizer(), _DATASET, _EPSILON, 5, lambda step: step + 1.0, **arguments
  )


def first_state(network):
  """Every number of its weights random."""
  rng = np.random.default_rng(3)
  state = create_state(network, _optimizer(), (4, 4, 1), seed=1)
  return dataclasses.replace(state, params=jax.tree.map(
      lambda w: w + 0.1 * rng.normal(size=w.shape).astype(w.dtype),
      state.params,
  ))


def assert_equal_steps(network, **arguments):
  """The state after a step and what it reports, with remat and without."""
  first = first_state(network)
  (state, metrics), anew = (
      step_of(network, remat, **arguments)(
          fresh(first), *_data()
      )
      for remat in (False, True)
  )
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      anew, (state, metrics),
  )
  moved = jax.tree.map(
      lambda new, old: np.max(np.abs(np.asarray(new) - np.asarray(old))),
      state.params, first.params,
  )
  assert max(jax.tree.leaves(moved)) > 1e-2


def test_computing_anew_changes_no_step():
  """Of a network of nearly everything, with regularisers and in parts."""
  assert_equal_steps(
      EVERYTHING, regularize=Regularizers(0.5, 0.5, 0.9), accumulate=2
  )


def test_computing_anew_takes_less_memory():
  """On the CPU only if the compiler leaves both computations apart."""
  stages = [Sequential((Linear(16), ReLU()) * 2) for _ in range(5)]
  network = Sequential((START, *stages, Linear(3)))
  shape = (jax.local_device_count(), 2048)
  state = jax.eval_shape(
      lambda: create_state(network, _optimizer(), (4, 4, 1), seed=1)
  )
  images = jax.ShapeDtypeStruct((*shape, 4, 4, 1), np.uint8)
  labels = jax.ShapeDtypeStruct(shape, np.int32)
  before, anew = (
      step_of(network, remat).lower(state, images, labels).compile(
          {"xla_disable_hlo_passes": "cse_barrier_expander"}
      ).memory_analysis().temp_size_in_bytes
      for remat in (False, True)
  )
  assert anew < 0.7 * before
