"""Equations that do not depend on the network's input: evaluated while reading."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.graph.jax_values import Repeated, known, whole

# Primitives whose result at a place needs their operands at that place alone.
_BY_ELEMENT = frozenset((
    "abs", "add", "and", "convert_element_type", "copy", "div", "eq", "exp",
    "expm1", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p",
    "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow",
    "rsqrt", "select_n", "sign", "sqrt", "square", "stop_gradient", "sub", "tanh",
))


def evaluate(eqn, inputs: Sequence) -> list:
  """What an equation of constants gives.

  Args:
    eqn: of a jaxpr; not a call of another one.
    inputs: arrays, traced or not, or Repeated.
  """
  if eqn.primitive.name == "broadcast_in_dim" and len(inputs) == 1:
    return [_repeated(inputs[0], eqn.params)]
  repeated = any(isinstance(value, Repeated) for value in inputs)
  if repeated and eqn.primitive.name in _BY_ELEMENT:
    shape = eqn.outvars[0].aval.shape
    arrays = [v.array if isinstance(v, Repeated) else v for v in inputs]
    common = np.broadcast_shapes(*map(np.shape, arrays))
    spread = lambda a: jnp.broadcast_to(a, common) if np.ndim(a) else a
    run = lambda *a: eqn.primitive.bind(*map(spread, a), **eqn.params)
    return [Repeated(now(run, *arrays), shape)]
  run = lambda *a: eqn.primitive.bind(*a, **eqn.params)
  found = now(run, *(now(whole, v) for v in inputs))
  return list(found) if eqn.primitive.multiple_results else [found]


def now(function: Callable, *constants) -> Any:
  """Runs a function; on numbers, if no constant is traced, inside of `jit` too."""
  if any(known(constant) is None for constant in constants):
    return function(*constants)
  with jax.ensure_compile_time_eval():
    return function(*constants)


def _repeated(constant: Any, params: dict) -> Repeated:
  """`broadcast_in_dim` that keeps new and stretched axes at size 1."""
  kept = constant.array if isinstance(constant, Repeated) else constant
  shape = [1] * len(params["shape"])
  for axis, size in zip(params["broadcast_dimensions"], np.shape(kept)):
    shape[axis] = size
  array = now(lambda a: jnp.reshape(a, shape), kept)
  return Repeated(array, tuple(params["shape"]))
