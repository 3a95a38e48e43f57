"""ONNX's layers: products with matrices, convolutions, pools, batch norm."""

from collections.abc import Callable, Sequence
import math

import numpy as np

from diffai_jax import transformers as t
from diffai_jax.graph.onnx_file import Handler, Node
from diffai_jax.graph.onnx_values import (
    IMAGE,
    Flow,
    arranged,
    lifted,
    reduced,
    reshaped,
    scaled,
    summed,
    together,
)

# By kind of node.
LAYERS: dict[str, Handler] = {}

_Sides = list[tuple[int, int]]  # (before, after) of each spatial axis.


def _handles(*kinds: str):
  def keep(handler: Handler) -> Handler:
    LAYERS.update((kind, handler) for kind in kinds)
    return handler
  return keep


@_handles("Gemm")
def _gemm(node: Node) -> Flow:
  """alpha·A'·B' + beta·C."""
  alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
  turned = [node.attribute("transA", 0), node.attribute("transB", 0)]
  node.ignore("broadcast")  # Of old files; today's rules include it.
  left, right = (
      _turned(value) if turn else value
      for value, turn in zip(node.inputs, turned)
  )
  if isinstance(left, Flow) and isinstance(right, Flow):
    product = scaled(_product(left, right), alpha, 0.0)
  else:
    bias = node.inputs[2] if node.has(2) else 0.0
    if isinstance(left, Flow) and not isinstance(bias, Flow):
      found = _as_bias(bias, np.shape(right)[-1])
      if found is not None:
        return _contract(left, alpha * right, 1, bias=beta * found)
    product = (
        _contract(left, alpha * right, 1) if isinstance(left, Flow)
        else _contract(right, (alpha * left).T, 0)
    )
  if not node.has(2):
    return product
  if isinstance(node.inputs[2], Flow):
    product, other = together([product, scaled(node.flow(2), beta, 0.0)])
    return product.of(t.add(product.value, other.value))
  return scaled(product, 1.0, beta * node.constant(2))


def _turned(value):
  """A matrix transposed: of a value, its axes are exchanged."""
  if not isinstance(value, Flow):
    return np.swapaxes(value, -1, -2)
  return Flow(
      value.value, value.shape[::-1], tuple(1 - axis for axis in value.axes)
  )


@_handles("MatMul")
def _matmul(node: Node) -> Flow:
  left, right = node.inputs
  if isinstance(left, Flow) and isinstance(right, Flow):
    if min(left.rank, right.rank) < 2:
      raise node.error("its inputs are vectors; supported are matrices of both")
    return _product(left, right)
  if isinstance(left, Flow):
    matrix = _matrix(node, right, left.rank)
    flow = _lifted_to_meet(left, right)
    if matrix.ndim == 1:
      return _dropped(_contract(flow, matrix[:, None], flow.rank - 1), -1)
    bias = node.bias_after(matrix.shape[1])
    return _contract(flow, matrix, flow.rank - 1, bias=bias)
  matrix = _matrix(node, left, right.rank)
  flow = _lifted_to_meet(right, left)
  axis = max(0, flow.rank - 2)
  if matrix.ndim == 1:
    return _dropped(_contract(flow, matrix[:, None], axis), axis)
  return _contract(flow, matrix.T, axis)


def _matrix(node: Node, array: np.ndarray, rank: int) -> np.ndarray:
  """A constant of MatMul without leading axes of size 1."""
  array = np.asarray(array)
  if array.ndim > 2 and math.prod(array.shape[:-2]) != 1:
    raise node.error(
        f"its constant is {list(array.shape)}; supported are one matrix, or vector"
    )
  return array.reshape(array.shape[-2:]) if array.ndim > 2 else array


def _lifted_to_meet(flow: Flow, array: np.ndarray) -> Flow:
  """A value with as many axes as its product with a constant has."""
  return lifted(flow, max(flow.rank, np.ndim(array))) if np.ndim(array) > 2 else flow


def _as_bias(array: np.ndarray, width: int) -> np.ndarray | None:
  """A constant [width], if adding the array is adding one to each row."""
  array = np.asarray(array)
  if math.prod(array.shape[:-1]) != 1 or array.shape[-1:] not in (
      (), (1,), (width,)
  ):
    return None
  return np.broadcast_to(array.reshape(-1), (width,))


def _contract(
    flow: Flow, kernel: np.ndarray, axis: int, bias: np.ndarray | None = None
) -> Flow:
  """x times a matrix [n, k] along an ONNX axis, which is of size n."""
  if flow.shape[axis] != kernel.shape[0]:
    raise ValueError(
        f"shapes {list(flow.shape)} and {list(kernel.shape)} do not fit"
    )
  rest = tuple(a for a in flow.axes if a != axis)
  value = arranged(flow, rest + (axis,)).value
  dtype, width = value.dtype, kernel.shape[1]
  bias = np.zeros(width) if bias is None else bias
  value = t.dense(value, np.asarray(kernel, dtype), np.asarray(bias, dtype))
  shape = flow.shape[:axis] + (width,) + flow.shape[axis + 1 :]
  return Flow(value, shape, rest + (axis,))


def _dropped(flow: Flow, axis: int) -> Flow:
  """Without an axis of size 1."""
  shape = list(flow.shape)
  del shape[axis]
  return reshaped(flow, shape)


def _product(left: Flow, right: Flow) -> Flow:
  """Matrix products of two values that depend on the input."""
  rank = max(left.rank, right.rank)
  left, right = lifted(left, rank), lifted(right, rank)
  left = reshaped(left, left.shape + (1,))  # [..., m, n, 1]
  right = reshaped(right, right.shape[:-2] + (1,) + right.shape[-2:])
  left, right = together([left, right])
  return summed(left.of(t.multiply(left.value, right.value)), (rank - 1,), False)


@_handles("BatchNormalization")
def _batch_norm(node: Node) -> Flow:
  node.only("training_mode", 0)
  node.only("is_test", 1, 0)
  node.ignore("momentum", "spatial")
  epsilon = node.attribute("epsilon", 1e-5)
  flow = node.flow()
  scale, shift, mean, variance = (
      node.constant(number).astype(np.float64) for number in range(1, 5)
  )
  factor = scale / np.sqrt(variance + epsilon)
  shift = shift - mean * factor
  if factor.ndim == 1:
    shape = (-1,) + (1,) * (flow.rank - 2)
    factor, shift = factor.reshape(shape), shift.reshape(shape)
  return scaled(flow, factor, shift, terms=2)


@_handles("Conv")
def _conv(node: Node) -> Flow:
  flow, weights, spatial = _images(node, weights=True)
  kernel = np.moveaxis(weights, (0, 1), (-1, -2))
  dilations = _numbers(node, "dilations", spatial)
  strides = _numbers(node, "strides", spatial)
  groups = node.attribute("group", 1)
  window = _window(node, weights.shape[2:])
  sizes = flow.shape[2:]
  sides = _sides(node, sizes, window, strides, dilations)
  if flow.shape[1] != weights.shape[1] * groups or weights.shape[0] % groups:
    raise node.error(
        f"{flow.shape[1]} channels in {groups} groups meet weights"
        f" {list(weights.shape)}"
    )
  return _convolved(
      t.conv, node, flow, kernel, weights.shape[0],
      stride=strides, padding=sides, dilation=dilations, groups=groups,
  )


def _convolved(
    transformer: Callable, node: Node, flow: Flow, kernel, filters: int,
    **options,
) -> Flow:
  """A convolution or transposed one, with the node's bias or none."""
  bias = node.constant(2, np.zeros(filters))
  value = transformer(
      _pixels(flow), _planar(kernel, flow), np.asarray(bias, node.dtype),
      **_options(**options),
  )
  return _image_of(value, flow)


@_handles("ConvTranspose")
def _conv_transpose(node: Node) -> Flow:
  flow, weights, spatial = _images(node, weights=True)
  groups = node.attribute("group", 1)
  channels, filters = weights.shape[:2]
  if flow.shape[1] != channels or channels % groups:
    raise node.error(
        f"{flow.shape[1]} channels in {groups} groups meet weights"
        f" {list(weights.shape)}"
    )
  # [C, F/g, ...] -> [..., C/g, F]: filters of one group are next to each other.
  kernel = weights.reshape(groups, channels // groups, *weights.shape[1:])
  kernel = np.moveaxis(kernel, (1, 0, 2), (-3, -2, -1))
  kernel = kernel.reshape(*kernel.shape[:-2], groups * filters)
  dilations = _numbers(node, "dilations", spatial)
  strides = _numbers(node, "strides", spatial)
  window = _window(node, weights.shape[2:])
  extra = _numbers(node, "output_padding", spatial, 0)
  wanted = node.attribute("output_shape")
  whole = [
      stride * (size - 1) + (k - 1) * d + 1
      for stride, size, k, d in zip(strides, flow.shape[2:], window, dilations)
  ]
  mode = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
  pads = node.attribute("pads", [0] * 2 * spatial)
  if mode.startswith("SAME") and not wanted:
    wanted = [size * s for size, s in zip(flow.shape[2:], strides)]
  if wanted:
    cut = [w + e - o for w, e, o in zip(whole, extra, wanted[-spatial:])]
    # ONNX: the odd one is cut off in front unless SAME_UPPER says otherwise.
    front = [c // 2 if mode == "SAME_UPPER" else c - c // 2 for c in cut]
    sides = [(f, c - f - e) for f, c, e in zip(front, cut, extra)]
  else:
    sides = [
        (pads[i], pads[i + spatial] - extra[i]) for i in range(spatial)
    ]
  return _convolved(
      t.conv_transpose, node, flow, kernel, groups * filters,
      stride=strides, padding=sides, dilation=dilations, groups=groups,
  )


@_handles("MaxPool")
def _max_pool(node: Node) -> Flow:
  node.ignore("storage_order")  # Of the second output alone.
  flow, window, strides, sides, _ = _pool(node)
  value = t.max_pool(
      _pixels(flow), _one_number(_square(window, flow, 1)),
      **_pool_options(flow, strides, sides),
  )
  return _image_of(value, flow)


@_handles("AveragePool")
def _average_pool(node: Node) -> Flow:
  counted = node.attribute("count_include_pad", 0)
  flow, window, strides, sides, given = _pool(node)
  value = t.average_pool(
      _pixels(flow), _one_number(_square(window, flow, 1)),
      **_pool_options(flow, strides, sides),
  )
  result = _image_of(value, flow)
  # Zeros that do not count, of the padding or beyond it.
  counts = np.ones(())
  for axis, size in enumerate(result.shape[2:]):
    (before, _), (low, high) = sides[axis], given[axis]
    start = np.arange(size) * strides[axis] - before
    end = flow.shape[2 + axis] + (high if counted else 0)
    inside = np.minimum(start + window[axis], end) - np.maximum(
        start, -low if counted else 0
    )
    counts = counts[..., None] * inside
  factor = math.prod(window) / counts
  if np.all(factor == 1):
    return result
  return scaled(result, factor, 0.0, terms=2)


@_handles("GlobalAveragePool")
def _global_average_pool(node: Node) -> Flow:
  flow = node.flow()
  pixels = math.prod(flow.shape[2:])
  total = summed(flow, range(2, flow.rank), True)
  return scaled(total, 1 / pixels, 0.0, terms=2)


@_handles("GlobalMaxPool")
def _global_max_pool(node: Node) -> Flow:
  flow = node.flow()
  return reduced(flow, range(2, flow.rank), True, t.max_axes)


def _pool(node: Node):
  """(images, window, strides, sides, sides without what ceil_mode adds)."""
  flow, _, spatial = _images(node)
  window = node.attribute("kernel_shape")
  strides = _numbers(node, "strides", spatial)
  dilations = _numbers(node, "dilations", spatial)
  if any(dilation != 1 for dilation in dilations):
    raise node.error(f"dilations are {dilations}; supported are windows without")
  ceil = node.attribute("ceil_mode", 0)
  sizes = flow.shape[2:]
  given = _sides(node, sizes, window, strides, dilations)
  if not ceil:
    return flow, window, strides, given, given
  sides = []
  for size, k, stride, (low, high) in zip(sizes, window, strides, given):
    count = -(-(size + low + high - k) // stride) + 1
    if (count - 1) * stride >= size + low:  # It would begin in the padding.
      count -= 1
    sides.append((low, max(high, (count - 1) * stride + k - size - low)))
  return flow, window, strides, sides, given


def _images(node: Node, weights: bool = False):
  """(images [1, C, ...], weights or None, how many spatial axes)."""
  flow = node.flow()
  array = node.constant(1).astype(np.float64) if weights else None
  spatial = flow.rank - 2
  if spatial not in (1, 2) or (weights and array.ndim != flow.rank):
    raise node.error(
        f"its input is {list(flow.shape)}; supported are images [1, C, H, W] and"
        f" sequences [1, C, L]"
    )
  if flow.shape[0] != 1:
    raise node.error(
        f"the file's batch is fixed to {flow.shape[0]}; export it with a batch of"
        f" 1, or of any size"
    )
  return flow, array, spatial


def _pixels(flow: Flow):
  """Images as our layers take them: rows, columns, channels."""
  if flow.rank == 4:
    return arranged(flow, IMAGE).value
  value = arranged(flow, (2, 1)).value
  return t.reshape(value, (flow.shape[2], 1, flow.shape[1]))


def _image_of(value, like: Flow) -> Flow:
  """The inverse of `_pixels`, of what a layer makes of them."""
  height, width, channels = value.shape[1:]
  if like.rank == 4:
    return Flow(value, (1, channels, height, width), IMAGE)
  value = t.reshape(value, (height, channels))
  return Flow(value, (1, channels, height), (2, 1))


def _planar(kernel: np.ndarray, flow: Flow) -> np.ndarray:
  """A kernel over rows and columns; that of a sequence has one column."""
  kernel = kernel if flow.rank == 4 else kernel[:, None]
  return np.asarray(kernel, flow.value.dtype)


def _numbers(node: Node, name: str, count: int, default: int = 1) -> list[int]:
  found = list(node.attribute(name, [default] * count))
  if len(found) != count:
    raise node.error(f"{name} are {found}; expected {count} numbers")
  return found


def _window(node: Node, sizes: Sequence[int]) -> list[int]:
  found = list(node.attribute("kernel_shape", sizes))
  if found != list(sizes):
    raise node.error(f"kernel_shape is {found}, but its weights' is {list(sizes)}")
  return found


def _sides(node: Node, sizes, window, strides, dilations) -> _Sides:
  """The padding before and after, by spatial axis."""
  mode = node.only("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
  pads = node.attribute("pads", [0] * 2 * len(sizes))
  if mode == "VALID":
    return [(0, 0)] * len(sizes)
  if mode == "NOTSET":
    if min(pads) < 0:
      raise node.error(f"pads are {list(pads)}; expected none below 0")
    return [(pads[i], pads[i + len(sizes)]) for i in range(len(sizes))]
  sides = []
  for size, k, stride, dilation in zip(sizes, window, strides, dilations):
    total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
    less, more = total // 2, total - total // 2
    sides.append((less, more) if mode == "SAME_UPPER" else (more, less))
  return sides


def _options(*, stride, padding, dilation, groups) -> dict:
  """Options of a convolution, those at their default left out."""
  one = len(stride) == 1
  found = {
      "stride": _one_number([*stride, 1] if one else stride),
      "padding": _one_side([*padding, (0, 0)] if one else padding),
      "dilation": _one_number([*dilation, 1] if one else dilation),
      "groups": groups,
  }
  usual = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
  return {key: value for key, value in found.items() if value != usual[key]}


def _pool_options(flow: Flow, strides, sides) -> dict:
  found = {
      "stride": _one_number(_square(strides, flow, 1)),
      "padding": _one_side(_square(sides, flow, (0, 0))),
  }
  return {key: value for key, value in found.items() if key != "padding" or value}


def _square(values, flow: Flow, of_columns) -> list:
  """Numbers of rows and columns; a sequence has one column."""
  return [*values] if flow.rank == 4 else [*values, of_columns]


def _one_number(pair) -> int | tuple[int, int]:
  rows, columns = (int(number) for number in pair)
  return rows if rows == columns else (rows, columns)


def _one_side(sides) -> int | tuple:
  sides = tuple((int(low), int(high)) for low, high in sides)
  low = sides[0][0]
  return low if sides == ((low, low),) * 2 else sides
