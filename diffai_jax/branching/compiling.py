"""Calls of compiled functions, with the time that compiling takes kept apart."""

import collections
from collections.abc import Callable
import time

import jax
import numpy as np

from diffai_jax.kernels import xla

_MOST = 32  # Programs that are kept.
_programs: collections.OrderedDict = collections.OrderedDict()


class Compiling:
  """Calls functions of `jax.jit` or `jax.pmap`, compiled before they are called.

  Attributes:
    seconds: that compiling took so far.
  """

  def __init__(self):
    self.seconds = 0.0

  def __call__(self, function: Callable, *arguments, **options):
    """function(*arguments, **options); programs are kept for later calls.

    Args:
      function: what `jax.jit` or `jax.pmap` gave; the same each time.
      *arguments: pytrees of arrays.
      **options: static ones.
    """
    leaves, structure = jax.tree.flatten(arguments)
    kinds = tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
    key = (
        function, structure, kinds, tuple(sorted(options.items())),
        jax.config.jax_enable_x64,
    )
    if key not in _programs:
      since = time.monotonic()
      lowered = function.lower(*arguments, **options)
      _programs[key] = xla.compiled(lowered)
      self.seconds += time.monotonic() - since
      while len(_programs) > _MOST:
        _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key](*arguments)


class Stopwatch:
  """Seconds since it was made, those of compiling left out."""

  def __init__(self, compiling: Compiling):
    self._compiling, self._before = compiling, compiling.seconds
    self._since = time.monotonic()

  def seconds(self) -> float:
    compiled = self._compiling.seconds - self._before
    return max(0.0, time.monotonic() - self._since - compiled)
