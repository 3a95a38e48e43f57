"""ONNX's operators that move numbers, and its sums and maxima over axes."""

import math

import numpy as np

from diffai_jax import transformers as t
from diffai_jax.graph.onnx_file import Handler, Node
from diffai_jax.graph.onnx_values import (
    Flow,
    broadcasted,
    constant_like,
    reduced,
    reshaped,
    scaled,
    with_axis,
)

# By kind of node.
MOVES: dict[str, Handler] = {}


def _handles(*kinds: str):
  def keep(handler: Handler) -> Handler:
    MOVES.update((kind, handler) for kind in kinds)
    return handler
  return keep


@_handles("Flatten")
def _flatten(node: Node) -> Flow:
  flow = node.flow()
  axis = node.attribute("axis", 1)
  axis = axis + flow.rank if axis < 0 else axis
  sizes = flow.shape[:axis], flow.shape[axis:]
  return reshaped(flow, [math.prod(part) for part in sizes])


@_handles("Reshape")
def _reshape(node: Node) -> Flow:
  flow, shape = node.flow(), node.integers(1, "shape")
  if not node.attribute("allowzero", 0):
    shape = [flow.shape[i] if size == 0 else size for i, size in enumerate(shape)]
  known = math.prod(size for size in shape if size != -1)
  size = math.prod(flow.shape)
  if -1 in shape and known:
    shape = [size // known if s == -1 else s for s in shape]
  if math.prod(shape) != size:
    raise node.error(
        f"{list(flow.shape)} does not fit into {shape}; export the file with a"
        f" batch of 1, or of any size"
    )
  return reshaped(flow, shape)


@_handles("Transpose")
def _transpose(node: Node) -> Flow:
  flow = node.flow()
  order = list(node.attribute("perm", range(flow.rank)[::-1]))
  return Flow(
      flow.value, tuple(flow.shape[axis] for axis in order),
      tuple(order.index(axis) for axis in flow.axes),
  )


@_handles("Squeeze")
def _squeeze(node: Node) -> Flow:
  flow, axes = node.flow(), node.integers(1, "axes")
  if axes is None:
    axes = [axis for axis, size in enumerate(flow.shape) if size == 1]
  axes = [node.axis(axis, flow.rank) for axis in axes]
  if any(flow.shape[axis] != 1 for axis in axes):
    raise node.error(f"axes {axes} of {list(flow.shape)} are not of size 1")
  return reshaped(
      flow, [size for axis, size in enumerate(flow.shape) if axis not in axes]
  )


@_handles("Unsqueeze")
def _unsqueeze(node: Node) -> Flow:
  flow, axes = node.flow(), node.integers(1, "axes")
  rank = flow.rank + len(axes)
  axes = {node.axis(axis, rank) for axis in axes}
  sizes = iter(flow.shape)
  return reshaped(
      flow, [1 if axis in axes else next(sizes) for axis in range(rank)]
  )


@_handles("Expand")
def _expand(node: Node) -> Flow:
  flow, shape = node.flow(), node.integers(1, "shape")
  return broadcasted(flow, np.broadcast_shapes(flow.shape, tuple(shape)))


@_handles("Concat")
def _concat(node: Node) -> Flow:
  values = node.inputs
  like = max(
      (value for value in values if isinstance(value, Flow)),
      key=lambda value: len(value.axes),
  )
  axis = node.axis(node.attribute("axis", 1), like.rank)
  axes = with_axis(like, axis).axes
  for value in values:
    shape = value.shape
    missing = [a for a in range(like.rank) if shape[a] != 1 and a not in axes]
    if missing:
      axes = tuple(sorted({*axes, *missing}))
  flows = [
      broadcasted(
          value if isinstance(value, Flow) else constant_like(like, value),
          value.shape, axes,
      ) for value in values
  ]
  shape = list(like.shape)
  shape[axis] = sum(flow.shape[axis] for flow in flows)
  value = t.concat([flow.value for flow in flows], axes.index(axis))
  return Flow(value, tuple(shape), axes)


@_handles("Gather")
def _gather(node: Node) -> Flow:
  flow, indices = node.flow(), node.constant(1)
  axis = node.axis(node.attribute("axis", 0), flow.rank)
  size = flow.shape[axis]
  if indices.size and not -size <= indices.min() <= indices.max() < size:
    raise node.error(f"its indices are not within an axis of size {size}")
  taken = _taken(flow, axis, np.reshape(indices, -1) % size)
  shape = flow.shape[:axis] + indices.shape + flow.shape[axis + 1 :]
  if indices.ndim == 1:
    return taken
  return reshaped(taken, shape)


def _taken(flow: Flow, axis: int, indices: np.ndarray) -> Flow:
  """The entries of an ONNX axis at these indices, not negative."""
  size = flow.shape[axis]
  indices = [int(index) for index in indices]
  if not indices:
    raise ValueError("nothing is left of it")
  if indices == list(range(size)):
    return flow
  flow = with_axis(flow, axis)
  position = flow.position(axis)
  steps = np.diff(indices) if len(indices) > 1 else np.ones(1, int)
  if steps.min() == steps.max() and steps[0] > 0:
    sizes = flow.value.shape[1:]
    starts, stops, strides = [0] * len(sizes), list(sizes), [1] * len(sizes)
    starts[position], stops[position] = indices[0], indices[-1] + 1
    strides[position] = int(steps[0])
    value = t.slice_axes(flow.value, *map(tuple, (starts, stops, strides)))
  else:
    value = t.gather(flow.value, tuple(indices), axis=position)
  shape = list(flow.shape)
  shape[axis] = len(indices)
  return Flow(value, tuple(shape), flow.axes)


@_handles("Slice")
def _slice(node: Node) -> Flow:
  flow = node.flow()
  starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
  axes = node.integers(3, "axes", range(len(starts)))
  steps = node.integers(4, "steps", [1] * len(starts))
  for start, end, axis, step in zip(starts, ends, axes, steps):
    axis = node.axis(axis, flow.rank)
    size = flow.shape[axis]
    # Files say "to the end" with numbers of 64 bits, and "-1 and before" too.
    end = None if step < 0 and end < -size else end
    flow = _taken(flow, axis, np.arange(size)[start:end:step])
  return flow


@_handles("Split")
def _split(node: Node) -> list[Flow]:
  flow = node.flow()
  axis = node.axis(node.attribute("axis", 0), flow.rank)
  size, count = flow.shape[axis], len(node.outputs)
  count = node.attribute("num_outputs", count)
  sizes = node.integers(1, "split")
  if sizes is None:
    each = -(-size // count)
    sizes = [min(each, size - number * each) for number in range(count)]
  if sum(sizes) != size or len(sizes) != len(node.outputs) or min(sizes) < 1:
    raise node.error(f"parts of {sizes} do not fit an axis of size {size}")
  ends = np.cumsum(sizes)
  return [
      _taken(flow, axis, np.arange(end - part, end))
      for part, end in zip(sizes, ends)
  ]


@_handles("Tile")
def _tile(node: Node) -> Flow:
  flow = node.flow()
  for axis, count in enumerate(node.integers(1, "repeats")):
    flow = _taken(flow, axis, np.tile(np.arange(flow.shape[axis]), count))
  return flow


@_handles("Pad")
def _pad(node: Node) -> Flow:
  flow = node.flow()
  mode = node.only("mode", "constant", "reflect", "edge", "wrap")
  pads = node.integers(1, "pads")
  fill = node.constant(2, node.attribute("value", 0.0))
  axes = node.integers(3, "axes", range(flow.rank))
  axes = [node.axis(axis, flow.rank) for axis in axes]
  sides = list(zip(axes, pads[: len(axes)], pads[len(axes) :]))
  shape = list(flow.shape)
  for axis, low, high in sides:
    if low or high:
      flow = with_axis(flow, axis)
      shape[axis] += low + high
      if mode != "constant":
        kept = np.arange(flow.shape[axis])
        kept = kept[max(0, -low) : len(kept) - max(0, -high)]
        kept = np.pad(kept, (max(0, low), max(0, high)), mode=mode)
        flow = _taken(flow, axis, kept)
  if mode != "constant" or tuple(shape) == flow.shape:
    return flow
  by_axis = {axis: (int(low), int(high), 0) for axis, low, high in sides}
  widths = tuple(by_axis.get(axis, (0, 0, 0)) for axis in flow.axes)
  fill = float(np.reshape(fill, ()))
  value = t.pad(flow.value, widths, **({"fill": fill} if fill else {}))
  return Flow(value, tuple(shape), flow.axes)


@_handles("ReduceSum")
def _reduce_sum(node: Node) -> Flow:
  flow, axes, keep = _reduction(node)
  return reduced(flow, axes, keep, t.sum_axes)


@_handles("ReduceMean")
def _reduce_mean(node: Node) -> Flow:
  flow, axes, keep = _reduction(node)
  count = math.prod(flow.shape[axis] for axis in axes)
  total = reduced(flow, axes, keep, t.sum_axes)
  return scaled(total, 1 / count, 0.0, terms=2) if count > 1 else total


@_handles("ReduceMax")
def _reduce_max(node: Node) -> Flow:
  flow, axes, keep = _reduction(node)
  return reduced(flow, axes, keep, t.max_axes)


@_handles("ReduceMin")
def _reduce_min(node: Node) -> Flow:
  flow, axes, keep = _reduction(node)
  most = reduced(scaled(flow, -1.0, 0.0), axes, keep, t.max_axes)
  return scaled(most, -1.0, 0.0)


def _reduction(node: Node) -> tuple[Flow, list[int], bool]:
  """(value, axes, whether they stay)."""
  flow = node.flow()
  keep = bool(node.attribute("keepdims", 1))
  axes = node.integers(1, "axes") or []
  if not axes and not node.attribute("noop_with_empty_axes", 0):
    axes = range(flow.rank)
  return flow, [node.axis(axis, flow.rank) for axis in axes], keep


@_handles("Resize", "Upsample")
def _resize(node: Node) -> Flow:
  """Nearest neighbours, along each axis."""
  flow, old = node.flow(), node.kind == "Upsample" or node.opset < 11
  node.only("mode", "nearest")
  node.only("antialias", 0)
  node.only("keep_aspect_ratio_policy", "stretch")
  node.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value")
  where = node.only(
      "coordinate_transformation_mode",
      *(("asymmetric", "half_pixel") if old else ("half_pixel", "asymmetric")),
      "pytorch_half_pixel", "align_corners",
  )
  rule = node.only(
      "nearest_mode", *(("floor",) if old else ()), "round_prefer_floor",
      "round_prefer_ceil", "floor", "ceil",
  )
  axes = [node.axis(a, flow.rank) for a in node.attribute("axes", range(flow.rank))]
  before = [flow.shape[axis] for axis in axes]
  scales = node.constant(1 if old else 2, node.attribute("scales"))
  if scales is not None and np.size(scales):
    scales = [float(scale) for scale in scales]
    after = [math.floor(size * scale) for size, scale in zip(before, scales)]
  else:
    after = node.integers(3, "sizes")
    scales = [new / size for new, size in zip(after, before)]
  for axis, scale, new in zip(axes, scales, after):
    size = flow.shape[axis]
    at = np.arange(new, dtype=np.float64)
    if where == "align_corners":
      at = at * (size - 1) / max(1, new - 1)
    elif where == "asymmetric":
      at = at / scale
    elif where == "half_pixel" or new > 1:
      at = (at + 0.5) / scale - 0.5
    else:
      at = 0 * at
    near = {
        "floor": np.floor, "ceil": np.ceil,
        "round_prefer_floor": lambda a: np.ceil(a - 0.5),
        "round_prefer_ceil": lambda a: np.floor(a + 0.5),
    }[rule](at)
    flow = _taken(flow, axis, np.clip(near, 0, size - 1).astype(int))
  return flow


@_handles("Shape")
def _shape(node: Node) -> np.ndarray:
  start, end = node.attribute("start", 0), node.attribute("end")
  return np.asarray(node.flow().shape[start:end], np.int64)


@_handles("Size")
def _size(node: Node) -> np.ndarray:
  return np.asarray(math.prod(node.flow().shape), np.int64)
