"""Values of an ONNX file inside of a graph: their ONNX shape, our layout.

ONNX orders the axes of an image batch, channel, row, column; our convolutions take
rows, columns, channels. A value here knows which order it is in, and is turned into
another only where an operator needs that: elementwise operators take any, and an
operator that only permutes or renames axes changes what is noted, and no number.

ONNX's batch axis is read as being of size 1: one of our examples is a whole tensor
of the file, so that whatever the file does with its axes is right for each example.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np

from diffai_jax import transformers as t
from diffai_jax.graph.building import Recording

IMAGE = (2, 3, 1)  # Rows, columns and channels of [1, C, H, W].


@dataclasses.dataclass(frozen=True, eq=False)
class Flow:
  """A value that depends on the network's input.

  Attributes:
    value: ours; one example has the axes below.
    shape: of the ONNX tensor, the batch axis included.
    axes: the ONNX axis that each axis of our example is; the others are of size 1.
    sigmoid_of: the value that this is the sigmoid of, if it is one.
    _arranged: the same value in other layouts that were asked for.
  """

  value: Recording
  shape: tuple[int, ...]
  axes: tuple[int, ...]
  sigmoid_of: "Flow | None" = None
  _arranged: dict = dataclasses.field(default_factory=dict, repr=False)

  @property
  def rank(self) -> int:
    return len(self.shape)

  def of(self, value: Recording) -> "Flow":
    """Another value of the same shape and layout."""
    return Flow(value, self.shape, self.axes)

  def position(self, axis: int) -> int:
    """Which axis of our example an ONNX axis is."""
    return self.axes.index(axis)

  def positions(self, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(i for i, axis in enumerate(self.axes) if axis in axes)


def natural(shape: Sequence[int]) -> tuple[int, ...]:
  """ONNX's own order of axes, without a leading axis of size 1, the batch."""
  return tuple(range(1 if len(shape) > 1 and shape[0] == 1 else 0, len(shape)))


def arranged(flow: Flow, axes: Sequence[int]) -> Flow:
  """The same value with exactly these axes, in this order.

  Asked twice, it is the same call: what two convolutions take is turned once.
  """
  axes = tuple(axes)
  if axes == flow.axes:
    return flow
  if axes not in flow._arranged:
    flow._arranged[axes] = _turned(flow, axes)
  return flow._arranged[axes]


def _turned(flow: Flow, axes: tuple[int, ...]) -> Flow:
  value = flow.value
  sizes = lambda kept: tuple(flow.shape[axis] for axis in kept)
  large = lambda kept: [axis for axis in kept if flow.shape[axis] != 1]
  if large(axes) != large(flow.axes):
    kept = tuple(axis for axis in flow.axes if axis in axes)
    if kept != flow.axes:
      value = t.reshape(value, sizes(kept))
    order = tuple(axis for axis in axes if axis in kept)
    value = t.transpose(value, tuple(kept.index(axis) for axis in order))
  if value.shape[1:] != sizes(axes):
    value = t.reshape(value, sizes(axes))
  return Flow(value, flow.shape, axes)


def with_axis(flow: Flow, axis: int) -> Flow:
  """The same value with that axis among those of our example."""
  if axis in flow.axes:
    return flow
  axes = flow.axes + (axis,)
  if list(flow.axes) == sorted(flow.axes):
    axes = tuple(sorted(axes))
  return arranged(flow, axes)


def reshaped(flow: Flow, shape: Sequence[int]) -> Flow:
  """The same numbers in ONNX's order, in another ONNX shape."""
  shape = tuple(int(size) for size in shape)
  before = [axis for axis in range(flow.rank) if flow.shape[axis] != 1]
  after = [axis for axis in range(len(shape)) if shape[axis] != 1]
  if [flow.shape[a] for a in before] == [shape[a] for a in after]:
    # Axes of size 1 come and go: the layout stays.
    renamed = dict(zip(before, after))
    held = arranged(flow, [a for a in flow.axes if flow.shape[a] != 1])
    axes = tuple(renamed[axis] for axis in held.axes)
    return Flow(held.value, shape, axes)
  value = arranged(flow, natural(flow.shape)).value
  axes = natural(shape)
  value = t.reshape(value, tuple(shape[axis] for axis in axes))
  return Flow(value, shape, axes)


def lifted(flow: Flow, rank: int) -> Flow:
  """The value with axes of size 1 in front, up to that many axes."""
  more = rank - flow.rank
  axes = tuple(axis + more for axis in flow.axes)
  return Flow(flow.value, (1,) * more + flow.shape, axes)


def broadcasted(
    flow: Flow, shape: Sequence[int], axes: Sequence[int] | None = None
) -> Flow:
  """The value in a larger ONNX shape, by NumPy's rules.

  Args:
    flow: any.
    shape: which the value's shape broadcasts to.
    axes: of the result; None keeps the value's own order where it can.
  """
  shape = tuple(int(size) for size in shape)
  flow = lifted(flow, len(shape))
  if axes is None:
    missing = [
        axis for axis, size in enumerate(shape)
        if size != 1 and axis not in flow.axes
    ]
    axes = _usual(shape) if missing else flow.axes
  value = arranged(flow, axes).value
  sizes = tuple(shape[axis] for axis in axes)
  if value.shape[1:] != sizes:
    value = t.broadcast(value, sizes)
  return Flow(value, shape, tuple(axes))


def _usual(shape: tuple[int, ...]) -> tuple[int, ...]:
  if len(shape) == 4:
    return ((0,) if shape[0] != 1 else ()) + IMAGE
  return natural(shape)


def together(values: Sequence[Flow]) -> list[Flow]:
  """Values in one shape, by NumPy's rules, and in the layout of the largest."""
  shape = np.broadcast_shapes(*(value.shape for value in values))
  largest = max(values, key=lambda value: math.prod(value.shape))
  axes = broadcasted(largest, shape).axes
  return [broadcasted(value, shape, axes) for value in values]


def met(flow: Flow, array: np.ndarray) -> tuple[Flow, np.ndarray]:
  """A value, broadcast to meet a constant, and the constant in its layout."""
  array = np.asarray(array)
  shape = np.broadcast_shapes(flow.shape, array.shape)
  if shape != flow.shape:
    flow = broadcasted(flow, shape)
  return flow, laid(array, flow)


def laid(array: np.ndarray, flow: Flow) -> np.ndarray:
  """A constant in a value's layout; [C, 1, 1] of an image becomes [C]."""
  array = np.asarray(array)
  array = array.reshape((1,) * (flow.rank - array.ndim) + array.shape)
  rest = tuple(axis for axis in range(flow.rank) if axis not in flow.axes)
  array = array.transpose(flow.axes + rest)
  array = array.reshape(array.shape[: len(flow.axes)])
  while array.ndim and array.shape[0] == 1:
    array = array[0]
  return array


def scaled(
    flow: Flow, factor: np.ndarray, shift: np.ndarray, terms: int = 1
) -> Flow:
  """factor · x + shift with constants in ONNX's order; see `scale_shift`."""
  shape = np.broadcast_shapes(np.shape(factor), np.shape(shift))
  flow, _ = met(flow, np.zeros(shape))
  dtype = flow.value.dtype
  factor, shift = (
      np.asarray(laid(array, flow), dtype) for array in (factor, shift)
  )
  options = {} if terms == 1 else {"terms": terms}
  return flow.of(t.scale_shift(flow.value, factor, shift, **options))


def constant_like(flow: Flow, array: np.ndarray) -> Flow:
  """A constant as a value that meets another, in ONNX's order."""
  array = np.asarray(array, flow.value.dtype)
  axes = natural(array.shape)
  one = array.reshape([array.shape[axis] for axis in axes])
  return Flow(t.constant(flow.value, one), array.shape, axes)


def summed(flow: Flow, axes: Sequence[int], keep: bool) -> Flow:
  """Sums over ONNX axes."""
  return reduced(flow, axes, keep, t.sum_axes)


def reduced(flow: Flow, axes: Sequence[int], keep: bool, reduce) -> Flow:
  """What a transformer of (value, axes) makes of ONNX axes.

  Args:
    flow: any.
    axes: not negative.
    keep: whether they stay, with size 1.
    reduce: does nothing to axes of size 1.
  """
  rest = tuple(axis for axis in flow.axes if axis not in axes)
  small = [a for a in flow.axes if a in axes and flow.shape[a] == 1]
  flow = arranged(flow, [axis for axis in flow.axes if axis not in small])
  value, positions = flow.value, flow.positions(axes)
  if positions:
    value = reduce(value, positions)
  shape = tuple(
      1 if axis in axes else size for axis, size in enumerate(flow.shape)
  )
  if keep:
    return Flow(value, shape, rest)
  kept = [axis for axis in range(flow.rank) if axis not in axes]
  return Flow(
      value, tuple(shape[axis] for axis in kept),
      tuple(kept.index(axis) for axis in rest),
  )
