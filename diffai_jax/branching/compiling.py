"""Calls of compiled functions, with the time that compiling takes kept apart."""

from collections.abc import Callable
import time


class Compiling:
  """Calls functions of `jax.jit` or `jax.pmap`, compiled before they are called.

  Attributes:
    seconds: that compiling took so far.
  """

  def __init__(self):
    self.seconds = 0.0

  def __call__(self, function: Callable, *arguments, **options):
    """function(*arguments, **options); JAX keeps what it compiled."""
    since = time.monotonic()
    function.lower(*arguments, **options).compile()
    self.seconds += time.monotonic() - since
    return function(*arguments, **options)


class Stopwatch:
  """Seconds since it was made, those of compiling left out."""

  def __init__(self, compiling: Compiling):
    self._compiling, self._before = compiling, compiling.seconds
    self._since = time.monotonic()

  def seconds(self) -> float:
    compiled = self._compiling.seconds - self._before
    return max(0.0, time.monotonic() - self._since - compiled)
