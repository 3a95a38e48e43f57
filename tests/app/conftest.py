"""What tests of the application share."""

import functools

import pytest
from sklearn import datasets

from diffai_jax.app import job, report
from diffai_jax.training import optimizers
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

  A step is traced and compiled for each run, most of what a small run takes.
  Two are equal if all arguments of `make_step` are: of the optimiser those
  that it was made of, of the clock its times. Networks with a layer class of
  their own (`watched`) have steps of their own.
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

  with pytest.MonkeyPatch.context() as patch:
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
