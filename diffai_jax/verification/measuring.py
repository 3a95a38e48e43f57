"""Measures of examples one after the other: kept as they come, timed, and apart
from each other when one fails.

With several processes, what process 0's journal knows is known to all, and it
alone writes. A measure that fails in one process has failed in all of them.
"""

from collections.abc import Callable
import time

import jax
import numpy as np

from diffai_jax import processes
from diffai_jax.storage.journal import Found, Journal, found_in
from diffai_jax.types import UsageError
from diffai_jax.verification.blocks import run_in_batches
from diffai_jax.verification.inputs import Inputs
from diffai_jax.verification.measures import Measure, StepwiseMeasure
from diffai_jax.verification.programs import compile_measure
from diffai_jax.verification.searching import Search

# What a measure may fail with while others go on: too little memory for one
# example, before or while it runs, and whatever else XLA says.
_FAILURES = (UsageError, MemoryError, jax.errors.JaxRuntimeError)


class Measuring:
  """Runs measures of the same network and examples.

  Attributes:
    seconds: time taken by phase, that of an earlier process included.
    failed: one line by phase that failed.
  """

  def __init__(
      self,
      params: dict,
      inputs: Inputs,
      memory_mb: float | None,
      progress: Callable[[str, int], None],
      journal: Journal,
      status: Callable[[str, str], None] = lambda phase, text: None,
  ):
    """The arguments are those of `certification.certify`."""
    self.seconds: dict[str, float] = {}
    self.failed: dict[str, str] = {}
    self._params, self._inputs = params, inputs
    self._memory_mb, self._progress = memory_mb, progress
    self._journal, self._status = journal, status

  def __call__(
      self,
      phase: str,
      measure: Measure | StepwiseMeasure | Search,
      which: np.ndarray,
      inputs: Inputs | None = None,
  ) -> dict[str, np.ndarray] | None:
    """The measure of some examples; None if it fails.

    Args:
      phase: its name.
      measure: what is measured.
      which: of which examples, bool [N].
      inputs: what to measure in the place of the examples, N of them.

    Returns:
      Arrays [n, ...] by name, n the number of examples in `which`.

    Raises:
      OSError: if the journal cannot be written.
    """
    inputs = self._inputs if inputs is None else inputs
    known = found_in(processes.by_first(lambda: self._journal.blocks(phase)))
    is_open = which.copy()
    is_open[known.rows] = False
    rows = np.flatnonzero(is_open)
    self.seconds[phase] = known.seconds
    self._progress(phase, len(which) - len(rows))
    pieces = [(known.rows, known.arrays)] if len(known.rows) else []
    start = time.monotonic()
    try:
      if len(rows):
        is_search = isinstance(measure, Search)
        run = self._search if is_search else self._measure
        pieces.append((rows, run(phase, measure, inputs, rows, known)))
    except Exception as error:
      # All processes are here, each with an error of its own or with another's.
      if processes.agreed(not isinstance(error, _FAILURES)):
        raise
      said = _reason(error)
      self.failed[phase] = processes.by_first(lambda: said)
    elapsed = time.monotonic() - start
    self.seconds[phase] = known.seconds + processes.by_first(lambda: elapsed)
    if phase in self.failed:
      return None
    return {
        name: _gathered([(at, found[name]) for at, found in pieces], which)
        for name in (pieces[0][1] if pieces else ())
    }

  def _measure(
      self,
      phase: str,
      measure: Measure | StepwiseMeasure,
      inputs: Inputs,
      rows: np.ndarray,
      known: Found,
  ) -> dict[str, np.ndarray]:
    since = time.monotonic()
    # However many are open: their number compiles nothing. A run that was killed
    # goes on with its batches: the same program, the same bits.
    size, program = compile_measure(
        phase, measure, self._params, inputs, self._memory_mb, known.batch
    )

    def block(places: slice, found: dict) -> None:
      nonlocal since
      elapsed, since = time.monotonic() - since, time.monotonic()
      processes.together(lambda: keep(places, found, elapsed))

    def keep(places: slice, found: dict, elapsed: float) -> None:
      if processes.is_first():
        self._journal.append(phase, size, rows[places], found, elapsed)
      self._progress(phase, len(inputs) - len(rows) + places.stop)

    return run_in_batches(program, size, self._params, inputs[rows], block)

  def _search(
      self,
      phase: str,
      search: Search,
      inputs: Inputs,
      rows: np.ndarray,
      known: Found,
  ) -> dict[str, np.ndarray]:
    """Each process searches its share; one alone appends what it decides."""
    since, done = time.monotonic(), len(inputs) - len(rows)
    inputs, count = inputs[rows], processes.count()
    status = lambda text: self._status(phase, text)

    def keep(numbers: np.ndarray, found: dict) -> None:
      nonlocal since, done
      elapsed, since = time.monotonic() - since, time.monotonic()
      if processes.is_first():
        self._journal.append(phase, 1, rows[numbers], found, elapsed)
      done += len(numbers)
      self._progress(phase, done)

    del known
    if count == 1:
      return search(self._params, inputs, keep, status, rows)
    # Neighbours may be alike, and so may be their time: every count-th one.
    own = np.arange(-(-len(rows) // count)) * count + processes.index()
    own, back = np.unique(own.clip(max=len(rows) - 1), return_inverse=True)
    found = processes.together(
        lambda: search(self._params, inputs[own], status=status)
    )
    found = processes.gathered({k: v[back] for k, v in found.items()})
    found = {
        k: np.swapaxes(v, 0, 1).reshape((-1,) + v.shape[2:])[: len(rows)]
        for k, v in found.items()
    }
    processes.together(lambda: keep(np.arange(len(rows)), found))
    return found


def _gathered(pieces: list, which: np.ndarray) -> np.ndarray:
  """The values of the examples `which`, from pieces of (rows, values)."""
  first = pieces[0][1]
  values = np.zeros((len(which),) + first.shape[1:], first.dtype)
  for rows, found in pieces:
    values[rows] = found
  return values[which]


def _reason(error: Exception) -> str:
  """One line that says what a measure failed with."""
  lines = str(error).strip().splitlines() or ["no memory is left"]
  if isinstance(error, UsageError):
    return lines[0]
  return f"{type(error).__name__}: {lines[0][:200]}"
