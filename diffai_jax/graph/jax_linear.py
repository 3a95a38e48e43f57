"""Contractions and convolutions: `dot_general` and `conv_general_dilated`."""

from collections.abc import Sequence
import math

import jax.numpy as jnp
import numpy as np

from diffai_jax import transformers
from diffai_jax.graph.building import Recording
from diffai_jax.graph.jax_constants import now
from diffai_jax.graph.jax_moves import padded, shaped, spread, turned
from diffai_jax.graph.jax_values import (
    Batched,
    MixesBatch,
    Rows,
    Unreadable,
    known,
    whole,
)


def _dot_general(reader, eqn, left, right) -> Batched:
  """Either side may be constant; its axes are ordered as that side's.

  The result's axes: those of dot_general's batch, free ones of the left side,
  free ones of the right side.
  """
  (left_sum, right_sum), (left_same, right_same) = (
      eqn.params["dimension_numbers"]
  )
  if isinstance(left, Rows) or isinstance(right, Rows):
    return _of_rows(left, right, left_sum, right_sum, left_same, right_same)
  if isinstance(left, Batched) and isinstance(right, Batched):
    return _of_two(left, right, left_sum, right_sum, left_same, right_same)
  if isinstance(left, Batched):
    return _of_one(left, right, left_sum, right_sum, left_same, right_same, True)
  return _of_one(right, left, right_sum, left_sum, right_same, left_same, False)


def _of_rows(left, right, left_sum, right_sum, left_same, right_same) -> Rows:
  """A contraction where the batch shares an axis: it and its neighbour stay."""
  first = isinstance(left, Rows)
  rows, other = (left, right) if first else (right, left)
  summed, same = (left_sum, left_same) if first else (right_sum, right_same)
  x = rows.parts
  if isinstance(other, Batched | Rows) or x.axis in (*summed, *same):
    raise MixesBatch("works along the batch")
  summed, same = ([a + (a > x.axis) for a in axes] for axes in (summed, same))
  if first:
    return Rows(_of_one(x, other, summed, right_sum, same, right_same, True))
  return Rows(_of_one(x, other, summed, left_sum, same, left_same, False))


def _of_one(
    x: Batched, constant, x_sum, c_sum, x_same, c_same, first: bool
) -> Batched:
  """A contraction of a value and a constant: a dense layer.

  Args:
    x: the value.
    constant: the other side.
    x_sum, c_sum, x_same, c_same: axes that are summed over; dot_general's batch.
    first: whether x is the left side.
  """
  kernel = now(whole, constant)
  x_same, c_same = list(x_same), list(c_same)
  names = [("same", i) for i in range(len(x_same))]  # Axes of the result.
  free = [a for a in range(len(x.shape) + 1) if a not in (*x_sum, *x_same)]
  c_free = [a for a in range(np.ndim(kernel)) if a not in (*c_sum, *c_same)]
  sides = [[("x", a) for a in free], [("c", a) for a in c_free]]
  names += sum(sides if first else sides[::-1], [])
  batch = ("x", x.axis)
  if x.axis in x_same:  # One matrix for each example; all must be equal.
    place = x_same.index(x.axis)
    batch = ("same", place)
    kernel = _one_matrix(constant, kernel, c_same[place])
    shift = lambda axes: [a - (a > c_same[place]) for a in axes]
    c_sum, c_free = shift(c_sum), shift(c_free)
    names = [
        ("c", n[1] - (n[1] > c_same[place])) if n[0] == "c" else n
        for n in names
    ]
    rest = [i for i in range(len(x_same)) if i != place]
    c_same = shift([c_same[i] for i in rest])
    x_same = [x_same[i] for i in rest]
    same_names = [("same", i) for i in rest]
  else:
    same_names = [("same", i) for i in range(len(x_same))]
  free = [a for a in free if a != x.axis]
  inner = lambda axes: [x.inner(a) for a in axes]
  value = turned(x.value, inner(free) + inner(x_same) + inner(x_sum))
  size = lambda axes: [x.shape[a] for a in inner(axes)]
  summed, same = math.prod(size(x_sum)), math.prod(size(x_same))
  out = [kernel.shape[a] for a in c_free]
  kernel = now(
      lambda k: jnp.transpose(k, [*c_same, *c_sum, *c_free]).reshape(
          same, summed, math.prod(out)
      ), kernel,
  )
  if same == 1:
    value = shaped(value, size(free) + [summed])
    value = dense(value, now(lambda k: k[0], kernel))
  else:
    value = _grouped(value, kernel, math.prod(size(free)))
  value = shaped(value, size(free) + size(x_same) + out)
  order = [("x", a) for a in free] + same_names + [("c", a) for a in c_free]
  axes = [order.index(name) for name in names if name != batch]
  return Batched(turned(value, axes), names.index(batch))


def _one_matrix(constant, kernel, axis: int):
  """The matrix that all examples are multiplied with."""
  kept = getattr(constant, "array", constant)
  if kept.shape[axis] == 1:
    return now(lambda k: k[(slice(None),) * axis + (0,)], kernel)
  numbers = known(kernel)
  if numbers is None:
    raise MixesBatch("multiplies each example with a matrix of its own")
  rows = np.moveaxis(numbers, axis, 0)
  if (rows != rows[:1]).any():
    raise MixesBatch("multiplies each example with a matrix of its own")
  return jnp.asarray(rows[0])


def dense(x: Recording, kernel) -> Recording:
  """x @ kernel along the last axis."""
  return transformers.dense(x, kernel, np.zeros(kernel.shape[-1], kernel.dtype))


def _grouped(x: Recording, kernels, places: int) -> Recording:
  """A matrix for each group: [places, groups, n] -> [places, groups, k]."""
  groups, inputs, outputs = kernels.shape
  x = shaped(x, (places, 1, groups * inputs))
  kernel = now(
      lambda k: jnp.transpose(k, (1, 0, 2)).reshape(1, 1, inputs, -1), kernels
  )
  bias = np.zeros(groups * outputs, kernel.dtype)
  return transformers.conv(x, kernel, bias, groups=groups)


def _of_two(
    left: Batched, right: Batched, left_sum, right_sum, left_same, right_same
) -> Batched:
  """A contraction of two values: products, summed."""
  pairs = list(zip(left_same, right_same))
  if (left.axis, right.axis) not in pairs:
    raise MixesBatch("multiplies examples with others")
  same = [(l, r) for l, r in pairs if l != left.axis]
  parts = []
  for x, summed, own in (
      (left, left_sum, [l for l, _ in same]),
      (right, right_sum, [r for _, r in same]),
  ):
    used = {x.inner(a) for a in (*summed, *own)}
    free = [a for a in range(len(x.shape)) if a not in used]
    own, summed = ([x.inner(a) for a in axes] for axes in (own, summed))
    sizes = lambda axes, x=x: [x.shape[a] for a in axes]
    value = turned(x.value, own + free + summed)
    parts.append((value, sizes(own), sizes(free), math.prod(sizes(summed))))
  (x, own, x_free, terms), (y, _, y_free, _) = parts
  rows, columns = math.prod(x_free), math.prod(y_free)
  common = [*own, rows, columns, terms]
  x = spread(shaped(x, [*own, rows, 1, terms]), common)
  y = spread(shaped(y, [*own, 1, columns, terms]), common)
  product = transformers.multiply(x, y)
  total = transformers.sum_axes(product, (len(common) - 1,))
  value = shaped(total, [*own, *x_free, *y_free])
  return Batched(value, pairs.index((left.axis, right.axis)))


def _conv_general_dilated(reader, eqn, x, kernel) -> Batched:
  if not isinstance(x, Batched) or isinstance(kernel, Batched):
    raise Unreadable("its kernel depends on the input")
  params = eqn.params
  layout = params["dimension_numbers"]
  if params.get("batch_group_count", 1) != 1 or layout.lhs_spec[0] != x.axis:
    raise MixesBatch("convolves along the batch")
  rank = len(layout.lhs_spec) - 2
  if rank > 2:
    raise Unreadable(f"it has {rank} spatial axes; convolutions have 1 or 2")
  channels, *places = (x.inner(a) for a in layout.lhs_spec[1:])
  value = turned(x.value, [*places, channels])
  value = shaped(value, [1] * (2 - rank) + list(value.shape[1:]))
  out, inputs, *window = layout.rhs_spec
  kernel = now(lambda k: _two_axes(k, [*window, inputs, out]), now(whole, kernel))
  full = lambda name, one: [one] * (2 - rank) + [
      tuple(map(int, p)) if name == "padding" else int(p)
      for p in params[name]
  ]
  value = convolved(
      value, kernel, full("window_strides", 1), full("padding", (0, 0)),
      full("lhs_dilation", 1), full("rhs_dilation", 1),
      int(params["feature_group_count"]),
  )
  value = shaped(value, value.shape[1 + 2 - rank :])
  # Of [*places, channels] to the layout of the result, the batch left out.
  batch, feature, *where = layout.out_spec
  order = sorted(
      [(axis, n) for n, axis in enumerate(where)] + [(feature, rank)]
  )
  return Batched(turned(value, [n for _, n in order]), batch)


def _two_axes(kernel, axes: Sequence[int]):
  kernel = jnp.transpose(kernel, axes)
  return kernel.reshape((1,) * (4 - kernel.ndim) + kernel.shape)


def convolved(
    x: Recording, kernel, strides, padding, dilation, kernel_dilation, groups
) -> Recording:
  """A convolution of [H, W, C] in XLA's terms; dilation is the input's."""
  bias = np.zeros(kernel.shape[-1], kernel.dtype)
  spans = [
      (size - 1) * d for size, d in zip(kernel.shape, kernel_dilation)
  ]
  options = dict(dilation=tuple(kernel_dilation), groups=groups)
  if max(dilation) > 1 and max(strides) == 1:
    # out[o] sums x[i]·kernel[a] with i·dilation = o + a·d - low: the transpose of
    # a convolution with the reversed kernel. Cut what it has more on each side.
    cut = [(s - low, s - high) for s, (low, high) in zip(spans, padding)]
    x = transformers.conv_transpose(
        x, now(lambda k: k[::-1, ::-1], kernel), bias, stride=tuple(dilation),
        padding=tuple((max(a, 0), max(b, 0)) for a, b in cut), **options,
    )
    more = [(max(-a, 0), max(-b, 0), 0) for a, b in cut]
    return padded(x, [*more, (0, 0, 0)])
  if max(dilation) > 1:
    widths = [(*p, d - 1) for p, d in zip(padding, dilation)]
    x, padding = padded(x, [*widths, (0, 0, 0)]), ((0, 0), (0, 0))
  cropped = [(min(a, 0), min(b, 0), 0) for a, b in padding]
  x = padded(x, [*cropped, (0, 0, 0)])
  return transformers.conv(
      x, kernel, bias, stride=tuple(strides),
      padding=tuple((max(a, 0), max(b, 0)) for a, b in padding), **options,
  )


RULES = {
    "conv_general_dilated": _conv_general_dilated,
    "dot_general": _dot_general,
}
