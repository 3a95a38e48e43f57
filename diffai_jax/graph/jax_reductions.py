"""Equations that take sums and extrema: over axes, over windows, cumulative."""

from collections.abc import Callable
import math

import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_linear import dense
from diffai_jax.graph.jax_moves import padded, shaped, turned
from diffai_jax.graph.jax_values import Batched, MixesBatch, Unreadable, number


def _over_axes(transform: Callable) -> Callable:

  def rule(reader, eqn, x: Batched) -> Batched:
    axes = eqn.params["axes"]
    inner = tuple(sorted(x.inner(axis) for axis in axes))
    if not inner:
      return x
    before = sum(axis < x.axis for axis in axes)
    return Batched(transform(x.value, inner), x.axis - before)

  return rule


def negated(x: Recording) -> Recording:
  return transformers.scale_shift(x, -1.0, 0.0)


def _least(x: Recording, axes: tuple[int, ...]) -> Recording:
  return negated(transformers.max_axes(negated(x), axes))


def _mean_pool(x: Recording, window, stride, padding) -> Recording:
  return transformers.average_pool(x, window, stride=stride, padding=padding)


def _max_pool(x: Recording, window, stride, padding) -> Recording:
  return transformers.max_pool(x, window, stride=stride, padding=padding)


def _min_pool(x: Recording, window, stride, padding) -> Recording:
  return negated(_max_pool(negated(x), window, stride, padding))


def _windows(pool: Callable, fill: float) -> Callable:
  """The rule of a pool.

  Args:
    pool: (x over [H, W, C], window, stride, padding) -> pooled; means for sums.
    fill: what padding means.
  """

  def rule(reader, eqn, x: Batched, *unused) -> Batched:
    params = eqn.params
    window, stride, padding, base, dilation = (
        tuple(params[name]) for name in (
            "window_dimensions", "window_strides", "padding", "base_dilation",
            "window_dilation",
        )
    )
    if max(dilation) > 1:
      raise Unreadable("its windows are dilated; use dense windows")
    batch = tuple(v[x.axis] for v in (window, stride, base))
    if batch != (1, 1, 1) or any(padding[x.axis]):
      raise MixesBatch("pools along the batch")
    window, stride, padding, base = (
        x.without_batch(v) for v in (window, stride, padding, base)
    )
    before = [
        (int(low) if b > 1 else min(low, 0), int(high) if b > 1 else min(high, 0),
         b - 1)
        for (low, high), b in zip(padding, base)
    ]
    if pool is not _mean_pool and max(base) > 1:
      raise Unreadable("its input is dilated")
    value = padded(x.value, before, fill)
    padding = [
        (0, 0) if b > 1 else (max(low, 0), max(high, 0))
        for (low, high), b in zip(padding, base)
    ]
    active = [
        axis for axis in range(len(window))
        if window[axis] > 1 or stride[axis] > 1 or any(padding[axis])
    ]
    if not active:
      return Batched(value, x.axis)
    if len(active) > 2:
      raise Unreadable(f"its windows have {len(active)} axes; pools have 1 or 2")
    rest = [axis for axis in range(len(window)) if axis not in active]
    value = turned(value, active + rest)
    kept = value.shape[1 + len(active) :]
    seen = value.shape[1 : 1 + len(active)]
    one = 2 - len(active)
    value = shaped(value, [1] * one + [*seen, math.prod(kept)])
    of = lambda v, unit: (unit,) * one + tuple(v[axis] for axis in active)
    value = pool(value, of(window, 1), of(stride, 1), of(padding, (0, 0)))
    value = shaped(value, [*value.shape[1 + one : -1], *kept])
    value = turned(value, np.argsort(active + rest))
    if pool is _mean_pool:  # A sum: its division by the size undoes this.
      value = transformers.scale_shift(value, float(math.prod(window)), 0.0)
    return Batched(value, x.axis)

  return rule


def _reduce_window(reader, eqn, x: Batched, *starts) -> Batched:
  """`reduce_window` with its function written out: a sum or an extremum."""
  body = eqn.params.get("jaxpr")
  body = getattr(body, "jaxpr", body)
  start = number(starts[0]) if len(starts) == 1 else None
  steps = body.eqns if body is not None else ()
  if len(steps) == 1 and set(steps[0].invars) == set(body.invars):
    name = steps[0].primitive.name
    neutral = {"add": 0.0, "max": -math.inf, "min": math.inf}.get(name)
    if neutral is not None and neutral == start:
      rules = {
          "add": "reduce_window_sum", "max": "reduce_window_max",
          "min": "reduce_window_min",
      }
      return RULES[rules[name]](reader, eqn, x)
  raise Unreadable("it is no sum, maximum or minimum of windows")


def _cumsum(reader, eqn, x: Batched) -> Batched:
  axis = x.inner(eqn.params["axis"])
  size = x.shape[axis]
  kernel = np.triu(np.ones((size, size), x.value.dtype))
  kernel = kernel.T if eqn.params["reverse"] else kernel
  order = [a for a in range(len(x.shape)) if a != axis] + [axis]
  value = dense(turned(x.value, order), kernel)
  return Batched(turned(value, np.argsort(order)), x.axis)


RULES = {
    "cumsum": _cumsum,
    "reduce_max": _over_axes(lambda x, axes: transformers.max_axes(x, axes)),
    "reduce_min": _over_axes(_least),
    "reduce_sum": _over_axes(lambda x, axes: transformers.sum_axes(x, axes)),
    "reduce_window": _reduce_window,
    "reduce_window_max": _windows(_max_pool, -math.inf),
    "reduce_window_min": _windows(_min_pool, math.inf),
    "reduce_window_sum": _windows(_mean_pool, 0.0),
}
