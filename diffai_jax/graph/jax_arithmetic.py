"""Elementwise equations, and sharper forms of some that follow each other."""

from collections.abc import Callable
import math
import operator
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.graph import jax_patterns as patterns
from diffai_jax.graph import jax_piecewise
from diffai_jax.graph import known_functions
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_constants import now
from diffai_jax.graph.jax_moves import spread
from diffai_jax.graph.jax_reductions import negated
from diffai_jax.graph.jax_values import (
    Batched,
    Compared,
    MixesBatch,
    Repeated,
    Unreadable,
    depends,
    for_one,
    known,
    number,
)

scale_shift = transformers.scale_shift


def _unary(transform: Callable[[Recording], Recording]) -> Callable:
  """The rule of a function of one value."""
  return lambda reader, eqn, x: Batched(transform(x.value), x.axis)


def _binary(of_two: Callable, with_constant: Callable) -> Callable:
  """The rule of a function of two operands.

  Args:
    of_two: (reader, x, y) -> result, of values of one shape.
    with_constant: (reader, x, constant, whether x is the left operand) -> result;
      the constant broadcasts against one example.
  """

  def rule(reader, eqn, left, right) -> Batched:
    first = isinstance(left, Batched)
    x, other = (left, right) if first else (right, left)
    shape = x.without_batch(eqn.outvars[0].aval.shape)
    value = spread(x.value, shape)
    if not isinstance(other, Batched):
      found = with_constant(reader, value, for_one(other, x.axis), first)
    elif other.axis != x.axis:
      raise MixesBatch("combines examples with others")
    else:
      found = of_two(reader, value, spread(other.value, shape))
    return Batched(found, x.axis)

  return rule


def _add(reader, x, constant, first) -> Recording:
  return patterns.shifted(reader, x, constant)


def _subtract(reader, x, constant, first) -> Recording:
  if first:
    return patterns.shifted(reader, x, now(operator.neg, constant))
  return scale_shift(x, -1.0, constant)


def _multiply(reader, x, constant, first) -> Recording:
  return known_functions.scaled(reader, x, constant)


def _divide(reader, x, constant, first) -> Recording:
  if first:
    return patterns.divided(reader, x, constant)
  return known_functions.fraction(reader, constant, x)


def _maximum(reader, x, constant, first) -> Recording:
  at = number(constant)
  if at == -math.inf:
    return x
  found = known_functions.variance(reader, x) if at == 0 else None
  return patterns.clipped(reader, x, constant, None) if found is None else found


def _minimum(reader, x, constant, first) -> Recording:
  if number(constant) == math.inf:
    return x
  return patterns.clipped(reader, x, None, constant)


def _power(reader, x, constant, first) -> Recording:
  exponent = number(constant)
  if not first:
    base = number(constant)
    if base is None or base <= 0:
      raise Unreadable("its base is not a known number above 0")
    return transformers.exp(scale_shift(x, math.log(base), 0.0, terms=2))
  if exponent is None:
    raise Unreadable("its exponent is not one known number")
  return raised(reader, x, exponent)


def raised(reader, x: Recording, exponent: float) -> Recording:
  """x to a known power; powers that are not whole want x > 0."""
  if exponent < 0:
    return patterns.inverse(reader, raised(reader, x, -exponent))
  if exponent == 0:
    return transformers.constant(x, np.ones(x.shape[1:], x.dtype))
  if exponent == 0.5:
    return patterns.root(reader, x)
  if exponent != int(exponent) or exponent > 64:
    logarithm = known_functions.logarithm(reader, x)
    logarithm = scale_shift(logarithm, exponent, 0.0)
    return transformers.exp(logarithm)
  if exponent == 1:
    return x
  half = transformers.square(raised(reader, x, exponent // 2))
  return transformers.multiply(half, x) if exponent % 2 else half


def _integer_pow(reader, eqn, x: Batched) -> Batched:
  return Batched(raised(reader, x.value, int(eqn.params["y"])), x.axis)


def _two_powers(reader, x, y) -> Recording:
  return transformers.exp(
      transformers.multiply(y, known_functions.logarithm(reader, x))
  )


def _clamp(reader, eqn, low, x, high) -> Batched:
  if depends(low) or depends(high):
    raise Unreadable("its limits depend on the input")
  limits = [for_one(limit, x.axis) for limit in (low, high)]
  return Batched(patterns.clipped(reader, x.value, *limits), x.axis)


def _convert(reader, eqn, x: Batched) -> Batched:
  new = np.dtype(eqn.params["new_dtype"])
  if not jnp.issubdtype(new, jnp.floating):
    raise Unreadable(f"it makes numbers of type {new} of the input's; keep floats")
  if jnp.finfo(new).bits < jnp.finfo(x.value.dtype).bits:
    raise Unreadable(
        f"it rounds {x.value.dtype} to {new}; compute in {x.value.dtype}"
        f" throughout"
    )
  return x


def _true(eqn, value: bool = True) -> Repeated:
  """A constant that is true everywhere, or false."""
  shape = eqn.outvars[0].aval.shape
  return Repeated(np.full((1,) * len(shape), value), shape)


def _compare(name: str) -> Callable:

  def rule(reader, eqn, left, right) -> Any:
    if isinstance(left, Batched) and isinstance(right, Batched):
      if left.number == right.number:  # Numbers are not NaN: NaN proves nothing.
        return _true(eqn, name in ("eq", "ge", "le"))
    return Compared(name, left, right)

  return rule


def _select(reader, eqn, which, *cases) -> Any:
  if isinstance(which, Compared):
    return _chosen(reader, eqn, which, *cases)
  if isinstance(which, Batched):
    raise Unreadable("what it selects depends on the input")
  like = next(case for case in cases if isinstance(case, Batched))
  picked = known(which)
  if picked is not None and picked.size and (picked == picked.flat[0]).all():
    return cases[int(picked.flat[0])]
  shape = like.without_batch(eqn.outvars[0].aval.shape)
  which = for_one(which, like.axis)
  constant, total = jnp.zeros((), like.value.dtype), None
  for place, case in enumerate(cases):
    here = now(lambda w, place=place: jnp.asarray(w) == place, which)
    if not isinstance(case, Batched):
      constant = now(
          lambda h, c, rest: jnp.where(h, c, rest), here,
          for_one(case, like.axis), constant,
      )
      continue
    if case.axis != like.axis:
      raise MixesBatch("combines examples with others")
    mask = now(lambda h: h.astype(like.value.dtype), here)
    part = scale_shift(spread(case.value, shape), mask, 0.0)
    total = part if total is None else transformers.add(total, part)
  return Batched(patterns.shifted(reader, total, constant), like.axis)


def _chosen(reader, eqn, which: Compared, below, above) -> Batched:
  """`where` of a comparison that depends on the input."""
  left, right, name = which.left, which.right, which.operator
  if not isinstance(left, Batched):
    swapped = {"gt": "lt", "lt": "gt", "ge": "le", "le": "ge"}
    left, right, name = right, left, swapped.get(name, name)
  if name in ("lt", "le"):
    below, above = above, below
  if name not in ("gt", "lt", "ge", "le"):
    below = None
  axes = {v.axis for v in (left, right, below, above) if isinstance(v, Batched)}
  found = None
  if below is not None and len(axes) == 1:
    inner = lambda v: v.value if isinstance(v, Batched) else (
        for_one(v, left.axis)
    )
    found = jax_piecewise.piecewise(
        reader, left.value, inner(right), inner(below), inner(above)
    )
  if found is None:
    raise Unreadable(
        "it selects by a comparison of values that depend on the input, in a"
        " way that is not known to be continuous; use an activation of jax.nn"
    )
  return Batched(found, left.axis)


def _same(reader, eqn, *values) -> list:
  return list(values)


RULES = {
    "abs": _unary(transformers.absolute),
    "add": _binary(known_functions.total, _add),
    "add_any": _binary(known_functions.total, _add),
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "div": _binary(known_functions.quotient, _divide),
    "erf": _unary(transformers.erf),
    "erfc": _unary(lambda x: scale_shift(transformers.erf(x), -1.0, 1.0)),
    "exp": _unary(transformers.exp),
    "exp2": _unary(
        lambda x: transformers.exp(scale_shift(x, math.log(2), 0.0, terms=2))
    ),
    "expm1": _unary(lambda x: scale_shift(transformers.exp(x), 1.0, -1.0)),
    "integer_pow": _integer_pow,
    "is_finite": lambda reader, eqn, x: _true(eqn),
    "log": lambda reader, eqn, x: Batched(
        known_functions.logarithm(reader, x.value), x.axis
    ),
    "log1p": lambda reader, eqn, x: Batched(
        known_functions.logarithm(reader, scale_shift(x.value, 1.0, 1.0)), x.axis
    ),
    "logistic": _unary(transformers.sigmoid),
    "max": _binary(jax_piecewise.maximum, _maximum),
    "min": _binary(
        lambda reader, x, y: transformers.minimum(x, y), _minimum
    ),
    "mul": _binary(known_functions.product, _multiply),
    "neg": _unary(negated),
    "pow": _binary(_two_powers, _power),
    "rsqrt": lambda reader, eqn, x: Batched(
        patterns.inverse(reader, patterns.root(reader, x.value)), x.axis
    ),
    "select_n": _select,
    "sharding_constraint": _same,
    "sqrt": lambda reader, eqn, x: Batched(
        patterns.root(reader, x.value), x.axis
    ),
    "square": _unary(transformers.square),
    "stop_gradient": _same,
    "sub": _binary(
        lambda reader, x, y: transformers.subtract(x, y), _subtract
    ),
    "tanh": _unary(transformers.tanh),
} | {name: _compare(name) for name in ("eq", "ge", "gt", "le", "lt", "ne")}
