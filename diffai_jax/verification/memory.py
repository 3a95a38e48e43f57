"""How much memory a traced program takes."""

import math

import jax
from jax.extend import core
import numpy as np

from diffai_jax.kernels.platforms import inner_programs

def peak(program: core.Jaxpr) -> int:
  """Most bytes that a traced program holds at a time, its inputs left out.

  If it ran operation by operation. XLA fuses some and copies for others, so
  what it takes is of that order, and not this number.
  """
  outputs = {v for v in program.outvars if not isinstance(v, core.Literal)}
  last = {}
  for number, equation in enumerate(program.eqns):
    last.update({v: number for v in _inputs(equation)})
  held, most, sizes = 0, 0, {}
  for number, equation in enumerate(program.eqns):
    own = {v: _bytes(v.aval) for v in equation.outvars}
    sizes.update(own)
    within = max(map(peak, inner_programs(equation)), default=0)
    most = max(most, held + max(sum(own.values()), within))
    held += sum(own.values())
    for v in {*_inputs(equation), *own} - outputs:
      if last.get(v, -1) <= number:
        held -= sizes.pop(v, 0)
  return most


def _inputs(equation) -> list:
  return [v for v in equation.invars if not isinstance(v, core.Literal)]


def _bytes(aval) -> int:
  if not hasattr(aval, "shape"):
    return 0
  return math.prod(aval.shape) * np.dtype(_plain(aval.dtype)).itemsize


def _plain(dtype):
  """A random key's type is none of NumPy's: two numbers of 32 bits."""
  is_key = jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
  return np.uint64 if is_key else dtype
