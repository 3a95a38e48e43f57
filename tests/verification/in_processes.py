"""Runs certification as one of several processes, and saves what it found.

python in_processes.py ADDRESS,COUNT,INDEX FOLDER. Of each case there are arrays by
name in FOLDER/INDEX.npz, errors as text.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
import sys

import jax
import numpy as np

import diffai_jax as dj
from diffai_jax import nn, processes
from diffai_jax.data import Examples
from diffai_jax.regions import Linf
from diffai_jax.storage.journal import Journal
from diffai_jax.types import UsageError
from diffai_jax.verification import (
    affine_check,
    certification,
    certification_input,
    measuring,
    programs,
)

EPSILON = 0.05
COUNTS = (7, 23)
SIZES = {7: 2, 23: 10}  # A device has of them, with two processes of one each.
_ATTACK = certification.Attack(steps=3)


@functools.cache
def network_and_examples(count: int):
  """A network, its weights, and images with labels that it half agrees with."""
  rng = np.random.default_rng(count)
  network = nn.Sequential([nn.Linear(5), nn.ReLU(), nn.Linear(4)])
  images = rng.integers(0, 256, (count, 6), dtype=np.uint8)
  params = jax.jit(network.init)(jax.random.key(3), images / np.float32(255))
  logits = jax.jit(network.apply)(params, images / np.float32(255))
  labels = np.asarray(logits.argmax(axis=1)).astype(np.int32)
  labels[::4] = (labels[::4] + 1) % 4
  return network, params["params"], Examples(images, labels)


def _unchecked(count: int):
  """Certifies as if no network had been found right."""
  certification_input._RIGHT.clear()
  return certify(count)


def certify(count: int, path: str | None = None, **options):
  """Certifies `count` images, with a journal; that of process 1 is PATH.1."""
  network, params, examples = network_and_examples(count)
  if path is not None and not processes.is_first():
    path = f"{path}.{processes.index()}"
  journal = Journal(path, "this")
  options = {"attack": _ATTACK} | options
  try:
    return flat(certification.certify(
        network, params, examples, Linf(EPSILON), journal=journal, **options
    ))
  finally:
    journal.close()


def flat(found: certification.Certification) -> dict[str, np.ndarray]:
  """Its fields as arrays by name, dicts inside as NAME/KEY."""
  arrays = {}
  for name, value in vars(found).items():
    inside = value if isinstance(value, dict) else {"": value}
    for key, one in inside.items():
      arrays[f"{name}/{key}".removesuffix("/")] = np.asarray(one)
  return arrays


def _attempt(function: Callable[[], dict]) -> dict:
  try:
    return function()
  except Exception as error:
    return {"error": np.asarray(f"{type(error).__name__}: {error}")}


@dataclasses.dataclass
class _Failing:
  """A program that fails in the second batch."""

  program: programs.Program
  error: Exception
  calls: int = 0

  def __call__(self, params, inputs):
    self.calls += 1
    if self.calls == 2:
      raise self.error
    return self.program(params, inputs)


def _with(
    owner, name: str, make: Callable, function: Callable, of: int = 1
) -> dict:
  """What a function gives, or its error, with a change in one process.

  Args:
    owner, name: what is changed there.
    make: of the value before, what takes its place.
    function: called in all processes.
    of: the process.
  """
  before = getattr(owner, name)
  try:
    if processes.index() == of:
      setattr(owner, name, make(before))
    return function()
  except Exception as error:
    return {"error": np.asarray(f"{type(error).__name__}: {error}")}
  finally:
    setattr(owner, name, before)


def _failing(phase: str, error: Exception) -> Callable:
  """For `compile_measure`: a phase whose program fails in its second batch."""

  def make(compile_measure):
    def compiled(name, *args):
      size, program = compile_measure(name, *args)
      return size, _Failing(program, error) if name == phase else program

    return compiled

  return make


def _raising(error: Exception) -> Callable:
  """For a function that raises whatever it is given."""

  def make(_):
    def function(*args):
      raise error

    return function

  return make


def _bounds(count: int) -> dict:
  network, params, examples = network_and_examples(count)
  variables = {"params": params}
  found = dj.bounds((network, variables), examples.images, Linf(EPSILON))
  largest = dj.largest_epsilon(
      (network, variables), examples.images, examples.labels, steps=6
  )
  arrays = {"largest": largest}
  for name, (lower, upper) in found.items():
    arrays |= {f"{name}/lower": lower, f"{name}/upper": upper}
  return arrays


def cases(folder: str) -> dict[str, dict]:
  """What one process finds, too."""
  few, many = COUNTS
  path = lambda name: os.path.join(folder, f"{name}.blocks")
  return {
      f"whole {few}": certify(few, path(f"whole {few}")),
      f"whole {many}": certify(many, path(f"whole {many}")),
      "skipping": certify(many, skip_decided=True),
      "bounds": _bounds(few),
  }


def of_several(folder: str) -> dict[str, dict]:
  """What two processes go on with, and what becomes of failures in one."""
  few, many = COUNTS
  path = lambda name: os.path.join(folder, f"{name}.blocks")
  exhausted = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory")
  rare = {"methods": ("HSwitch",)}
  return {
      "resumed": certify(few, path("begun"), methods=("Box",)),
      "exhausted": _with(
          measuring, "compile_measure", _failing("Box", exhausted),
          lambda: certify(many, path("exhausted")),
      ),
      "too large": _with(
          programs, "_compiled", _raising(UsageError("too large")),
          lambda: certify(few, **rare),
      ),
      # Of programs, the processes keep different ones now.
      "afterwards": certify(few, **rare),
      "mistake": _with(
          measuring, "compile_measure", _failing("Box", ValueError("mistake")),
          lambda: certify(many, methods=("Box",)),
      ),
      "arithmetic": _with(
          affine_check, "check", _raising(UsageError("off by 2")),
          lambda: _unchecked(few),
      ),
      "little memory": _with(
          programs, "_fitting", lambda _: lambda *args: 1,
          lambda: certify(
              few, path("little"), methods=("Box",), memory_mb=1000
          ),
      ),
      "full disk": _with(
          Journal, "append", _raising(OSError(28, "No space left", "blocks")),
          lambda: certify(few), of=0,
      ),
  }


def main(spec: str, folder: str) -> None:
  processes.connect(spec)
  found = cases(folder) | of_several(folder)
  np.savez(os.path.join(folder, f"{processes.index()}.npz"), **{
      f"{case}:{name}": array
      for case, arrays in found.items()
      for name, array in arrays.items()
  })
  processes.disconnect()


if __name__ == "__main__":
  main(*sys.argv[1:])
