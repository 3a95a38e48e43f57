"""Measures compiled for batches that fit into memory.

With several processes each compiles a program of its own devices, for batches of
the same size (`blocks` runs it).
"""

from collections.abc import Callable
import contextlib
import dataclasses

import jax
import numpy as np

from diffai_jax import processes
from diffai_jax.kernels import device_memory, platforms, precision, xla
from diffai_jax.types import UsageError
from diffai_jax.verification import memory
from diffai_jax.verification.inputs import Inputs
from diffai_jax.verification.measures import Measure, StepwiseMeasure
from diffai_jax.verification.program_cache import (
    LastUsed,
    shapes,
    structure,
    surroundings,
)

# What XLA's programs take is at most so many times what `memory.peak` says
# (measured: ResNet-18 0.5, ConvSmall 0.4 to 1.6, ConvMed 0.8 to 2, ConvBig 2.9).
_DOUBT = 4
# A batch is chosen for this share of the memory that it may take, by `memory.peak`.
_SHARE = 0.8
# What a batch takes however small it is, as the magnitudes of all weights, it takes
# anew each time: so many times as much for its images pays for that. (CROWN_IBP on
# CNN7, 61 MiB of 72 for one image: 99 ms an image alone, 48 of 5 images.)
_PAYS = 2


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled measure: (params, inputs [devices, size, ...]) -> arrays by name.

  The devices are this process's own.

  Attributes:
    run: it.
    mib: what a batch takes on a device, beside its inputs.
  """

  run: Callable[[dict, Inputs], dict]
  mib: float

  def __call__(self, params: dict, inputs: Inputs) -> dict:
    return self.run(params, inputs)


# Programs, and the sizes of batch that were chosen.
_PROGRAMS = LastUsed()
_SIZES = LastUsed()


def compile_measure(
    phase: str,
    measure: Measure | StepwiseMeasure,
    params: dict,
    inputs: Inputs,
    memory_mb: float | None,
    size: int | None = None,
) -> tuple[int, Program]:
  """Compiles a measure for the largest batch that fits, or finds it compiled.

  Args:
    phase: the measure's name, for messages.
    measure: what to compile, at the highest matmul precision.
    params: the network's weights.
    inputs: all examples that there are: no batch is larger. Their shapes and
      types count, and not their values.
    memory_mb: how much memory a batch may take, in MiB a device; None is
      `device_memory.budget_mb()`, when a measure is first compiled.
    size: the batch's size a device, where it is known. It is taken if it fits.

  Returns:
    The batch's size a device, one of `Platform.batches` unless it was given,
    and the program: (params, inputs [devices, size, ...]) -> arrays
    [devices, size, ...] by name. The size is the same in all processes: the
    largest that fits in each of them.

  Raises:
    UsageError: if one example alone needs more than memory_mb.
  """
  key = structure(measure), shapes(params), shapes(inputs[:1]), surroundings()

  def compiled(size: int):
    make = lambda: _compiled(measure, params, inputs, size)
    return _PROGRAMS.get((key, size), make)

  def is_too_large() -> bool:
    budget = device_memory.budget_mb() if memory_mb is None else memory_mb
    return size > 1 and compiled(size).mib > budget

  # Processes agree outside of what is kept: after a failure in one of them they
  # keep different programs.
  if size is not None and processes.agreed(processes.together(is_too_large)):
    size = None
  if size is None:
    devices = processes.count() * jax.local_device_count()
    share = -(-len(inputs) // devices)
    peak_mb = lambda size: _peak_mb(measure, params, inputs, size)
    choose = lambda: _fitting(phase, compiled, peak_mb, memory_mb, share)
    fits = processes.together(
        lambda: _SIZES.get((key, memory_mb, share), choose)
    )
    size = -processes.agreed(-fits)
  return size, processes.together(lambda: compiled(size))


def _fitting(
    phase: str,
    compiled: Callable[[int], Program],
    peak_mb: Callable[[int], float],
    memory_mb: float | None,
    share: int,
) -> int:
  """The size of the largest batch that fits, at most `share` examples.

  It is chosen by what a traced program takes, so that mostly one is compiled, and
  not two; what the compiler says counts.
  """
  budget = device_memory.budget_mb() if memory_mb is None else memory_mb
  useful = platforms.here().useful_mib
  wanted, size = min(budget, useful), _largest(share)
  most = peak_mb(size)
  if most > _SHARE * wanted and size > 1:
    least = peak_mb(1)
    each = max(most - least, 1e-6) / (size - 1)
    fixed = max(0, least - each)
    useful = max(useful, _PAYS * fixed)
    wanted = min(budget, fixed + useful)
    guess = min(_SHARE * budget, fixed + _SHARE * useful)
    size = _largest(max(1, min(size, 1 + int(max(0, guess - least) / each))))
  while (needed := compiled(size).mib) > wanted and size > 1:
    size = _largest(max(1, min(size - 1, int(size * wanted / needed))))
  if needed > budget:
    raise _too_large(phase, needed, budget, memory_mb)
  return size


def _largest(most: int) -> int:
  """The largest useful batch of at most so many examples."""
  return max(size for size in platforms.here().batches if size <= most)


def check_memory(
    phase: str,
    measure: Measure | StepwiseMeasure,
    params: dict,
    inputs: Inputs,
    memory_mb: float | None,
) -> None:
  """Checks that a measure of one example fits, if possible without compiling.

  Args:
    phase, measure, inputs, memory_mb: as `compile_measure` takes them.
    params: the network's weights, or their shapes and types.

  Raises:
    UsageError: if one example alone needs more than memory_mb.
  """
  budget = device_memory.budget_mb() if memory_mb is None else memory_mb
  if _DOUBT * _peak_mb(measure, params, inputs, 1) <= budget:
    return
  needed = _compiled(measure, params, inputs, 1).mib
  if needed > budget:
    raise _too_large(phase, needed, budget, memory_mb)


def _peak_mb(measure, params, inputs, size) -> float:
  """About what a batch takes, without compiling."""
  batch, peaks = _shapes(inputs, (size,)), []
  with _precisely():
    for function, arguments in _functions(measure, params, batch):
      traced = jax.jit(function).trace(params, batch, *arguments)
      peaks.append(memory.peak(traced.jaxpr.jaxpr))
  return max(peaks) / 2**20


def _compiled(measure, params, inputs, size) -> Program:
  devices = jax.local_devices()
  batch = _shapes(inputs, (size,))
  programs = []
  with _precisely():
    for function, arguments in _functions(measure, params, batch):
      arguments = jax.tree.map(
          lambda leaf: jax.ShapeDtypeStruct(
              (len(devices),) + leaf.shape, leaf.dtype
          ),
          (batch, *arguments),
      )
      axes = None, *(0 for _ in arguments)
      run = jax.pmap(function, in_axes=axes, devices=devices)
      lowered = run.lower(*_abstract(params, *arguments))
      programs.append(xla.compiled(lowered))
  needed = max(map(_needed_mb, programs))
  if len(programs) == 1:
    return Program(programs[0], needed)
  begin, step, end = programs

  def run(params: dict, inputs: Inputs) -> dict:
    inputs, state = begin(params, inputs)
    for _ in range(measure.steps):
      state = step(params, inputs, state)
    return end(params, inputs, state)

  return Program(run, needed)


def _abstract(*arguments):
  """Shapes and types as `pmap` lowers them with several processes, too.

  Whatever else it is given it takes for numbers of this process, and moves.
  """
  return jax.tree.map(
      lambda leaf: jax.core.ShapedArray(
          leaf.shape, leaf.dtype, weak_type=leaf.weak_type
      ),
      jax.eval_shape(lambda *same: same, *arguments),
  )


def _functions(measure: Measure | StepwiseMeasure, params, batch: Inputs):
  """What is compiled of a measure, with the arguments behind the inputs.

  As functions that JAX takes for no other ones: modules may be equal, or have no
  hash, and still share weights differently.
  """
  if not isinstance(measure, StepwiseMeasure):
    return [(lambda params, inputs: measure(params, inputs), ())]
  # The inputs, too: on the devices from then on.
  begin = lambda params, inputs: (inputs, measure.begin(params, inputs))
  _, state = jax.eval_shape(begin, params, batch)
  return [
      (begin, ()),
      (lambda *arguments: measure.step(*arguments), (state,)),
      (lambda *arguments: measure.end(*arguments), (state,)),
  ]


@contextlib.contextmanager
def _precisely():
  """Wherever it is called from, in a training step too."""
  with jax.default_matmul_precision("highest"), precision.for_losses(False):
    yield


def _shapes(inputs: Inputs, batch: tuple[int, ...]) -> Inputs:
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(batch + leaf.shape[1:], leaf.dtype),
      inputs,
  )


def _needed_mb(program) -> float:
  stats = program.memory_analysis()
  return (stats.temp_size_in_bytes + stats.output_size_in_bytes) / 2**20


def _too_large(phase, needed, budget, memory_mb) -> UsageError:
  given = f"memory_mb is {budget:.0f}"
  if memory_mb is None:
    given = f"{platforms.here().memory_share:.0%} of the free memory is {budget:.0f}"
  return UsageError(
      f"{phase} needs {needed:.0f} MiB for one example, but {given}; raise"
      f" memory_mb (--config.certify.memory_mb), or leave the method out"
      f" (--config.certify.methods)"
  )
