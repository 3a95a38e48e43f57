"""Whether a function computes with the size of its batch."""

import re

import jax
from jax.extend import core as jex
import numpy as np

from diffai_jax.types import UsageError

# Numbers, and everything else; places in memory differ from trace to trace.
_TOKEN = re.compile(r"[-+\d][\w.+-]*|[A-Za-z_]\w*|\S")
_PLACE = re.compile(r" at 0x[0-9a-f]+")
_LITERAL = re.compile(r"\S+?:[a-z]+\d*\[\]")
_SMALL = 64  # Constants of more numbers are weights.


def check(
    first: jex.ClosedJaxpr, second: jex.ClosedJaxpr, sizes: tuple[int, int]
) -> None:
  """Checks that two traces differ in the size of the batch alone.

  A mean over the batch, or x / len(x), would make a graph that is right for one
  size only. Sizes of arrays may be multiples of the batch's, numbers may not.

  Args:
    first, second: of one function, with batches of these sizes.
    sizes: of the batches.

  Raises:
    UsageError: if numbers of theirs differ.
  """
  texts = [_PLACE.sub("", str(traced.jaxpr)) for traced in (first, second)]
  numbers = [_LITERAL.findall(text) for text in texts]
  tokens = [_TOKEN.findall(text) for text in texts]
  same = numbers[0] == numbers[1] and len(tokens[0]) == len(tokens[1]) and all(
      a == b or _scaled(a, b, sizes) for a, b in zip(*tokens)
  )
  constants = list(zip(first.consts, second.consts))
  if not same or len(first.consts) != len(second.consts) or not all(
      _equal(a, b) for a, b in constants
  ):
    raise UsageError(
        "the network computes with the number of images in its batch; each"
        " example's result must be its own"
    )


def _scaled(a: str, b: str, sizes: tuple[int, int]) -> bool:
  """Whether two numbers are the same multiple of the batch's size, or off it."""
  if not (a.isdigit() and b.isdigit()):
    return False
  a, b = int(a), int(b)
  return a * sizes[1] == b * sizes[0] or a - sizes[0] == b - sizes[1]


def _equal(a, b) -> bool:
  """Of constants of a few numbers that are known and of one shape."""
  known = not any(isinstance(c, jax.core.Tracer) for c in (a, b))
  if not known or np.shape(a) != np.shape(b) or np.size(a) > _SMALL:
    return True
  try:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
  except TypeError:  # Random keys.
    return True
