"""What tests of the application share."""

import functools

import jax
import numpy as np
import pytest
from sklearn import datasets

from diffai_jax.app import certify_run, fit, job, report, train
from diffai_jax.training import optimizers
from diffai_jax.training.state import create_state
from diffai_jax.verification.program_cache import structure

_STEPS = 200  # More than any run here takes.


@pytest.fixture(autouse=True, scope="module")
def pictures():
  """Pages say what a picture shows and draw none.

  Drawing takes a second a page, most of what a small run takes. Modules that
  look at pictures have a fixture of this name that does nothing.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        report, "_image", lambda figure, description: f"<p>{description}</p>"
    )
    yield


@pytest.fixture(autouse=True, scope="module")
def shared_steps():
  """Runs of one module that ask for equal training steps take the same one.

  A step is traced and compiled for each run, and so is what draws the first
  weights: most of what a small run takes. Two are equal if all arguments of
  `make_step` and `create_state` are: of the optimiser those that it was made
  of, of the clock its times. Networks with a layer class of their own
  (`watched`) have steps and weights of their own.
  """
  make_step, create = job.make_step, optimizers.create
  made = {}

  def optimizer(config, epoch_of):
    key = "optimizer", config.to_json(), _times(epoch_of)
    return _kept(made, key, lambda: create(config, epoch_of))

  def step(*arguments):
    parts = list(arguments)
    parts[2], parts[6] = id(parts[2]), _times(parts[6])
    key = "step", structure(parts)
    return _kept(made, key, lambda: (arguments, make_step(*arguments)))[1]

  def state(network, optimizer, image_shape, seed):
    key = "state", structure([network, id(optimizer), image_shape, seed])
    first = _kept(made, key, lambda: (
        optimizer, create_state(network, optimizer, image_shape, seed)
    ))[1]
    return jax.tree.map(  # The run's own: steps take what they are given.
        lambda leaf: jax.device_put(np.array(leaf), leaf.sharding), first
    )

  with pytest.MonkeyPatch.context() as patch:
    for room in (certify_run, fit, train):
      patch.setattr(room, "create_state", state)
    patch.setattr(optimizers, "create", optimizer)
    patch.setattr(job, "make_step", step)
    yield


@pytest.fixture(autouse=True, scope="module")
def digits_file():
  """scikit-learn's file of digits, a compressed text, is read once."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
        datasets, "load_digits", functools.cache(datasets.load_digits)
    )
    yield


def _kept(values: dict, key, make):
  if key not in values:
    values[key] = make()
  return values[key]


def _times(epoch_of) -> tuple[float, ...]:
  """What a clock shows at each step of a run."""
  return tuple(float(epoch_of(number)) for number in range(_STEPS))
