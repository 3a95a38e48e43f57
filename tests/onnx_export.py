"""Graphs written as ONNX: each call of a transformer as the nodes that it is."""

import numpy as np

from tests.onnx_models import model, node

# Transformers that are one operator, without options or arrays.
_SAME = {
    "absolute": "Abs", "add": "Add", "elu": "Elu", "erf": "Erf", "exp": "Exp",
    "log": "Log", "maximum": "Max", "minimum": "Min", "multiply": "Mul",
    "reciprocal": "Reciprocal", "relu": "Relu", "selu": "Selu",
    "sigmoid": "Sigmoid", "softplus": "Softplus", "sqrt": "Sqrt",
    "subtract": "Sub", "tanh": "Tanh",
}


def export(graph, opset=20):
  """The ONNX model of a graph of one output; its batch has any size.

  Raises:
    NotImplementedError: of a call that has no operator.
  """
  writer = _Writer()
  names = ["x"]
  for call in graph.calls:
    shapes = [graph.shape(number) for number in call.inputs]
    names.append(writer.call(call, [names[n] for n in call.inputs], shapes))
  return model(
      writer.nodes, ("N", *graph.input_shape), writer.arrays, opset,
      output=names[graph.outputs[0]],
  )


class _Writer:
  """Nodes and arrays in the making."""

  def __init__(self):
    self.nodes, self.arrays = [], {}

  def array(self, value, dtype=np.float32):
    name = f"a{len(self.arrays)}"
    self.arrays[name] = np.asarray(value, dtype)
    return name

  def whole(self, *values):
    return self.array(values, np.int64)

  def add(self, kind, inputs, **attributes):
    name = f"v{len(self.nodes)}"
    self.nodes.append(node(kind, inputs, name, **attributes))
    return name

  def call(self, call, inputs, shapes):
    kind, options, arrays = call.transformer, dict(call.options), call.arrays
    x = inputs[0]
    if kind in _SAME:
      return self.add(_SAME[kind], inputs)
    if kind == "concat":
      axis = options.get("axis", -1) % len(call.shape) + 1
      return self.add("Concat", inputs, axis=axis)
    write = getattr(self, f"_{kind}", None)
    if write is None:
      raise NotImplementedError(kind)
    return write(x, arrays, options, shapes[0], call.shape)

  def _constant(self, x, arrays, options, shape, result):
    zero = self.add("Mul", [self.add(
        "ReduceSum", x, keepdims=0), self.array(0)])
    return self.add("Add", [zero, self.array(np.asarray(arrays["shift"])[None])])

  def _reshape(self, x, arrays, options, shape, result):
    return self.add("Reshape", [x, self.whole(-1, *result)])

  def _transpose(self, x, arrays, options, shape, result):
    return self.add("Transpose", x, perm=[0] + [a + 1 for a in options["axes"]])

  def _pad(self, x, arrays, options, shape, result):
    if any(interior for _, _, interior in options["widths"]):
      raise NotImplementedError("pad between entries")
    sides = [0] + [w[0] for w in options["widths"]]
    sides += [0] + [w[1] for w in options["widths"]]
    fill = self.array(options.get("fill", 0.0))
    return self.add("Pad", [x, self.whole(*sides), fill])

  def _slice_axes(self, x, arrays, options, shape, result):
    return self.add("Slice", [
        x, self.whole(*options["starts"]), self.whole(*options["stops"]),
        self.whole(*range(1, len(shape) + 1)), self.whole(*options["strides"]),
    ])

  def _gather(self, x, arrays, options, shape, result):
    axis = options.get("axis", -1) % len(shape) + 1
    return self.add("Gather", [x, self.whole(*options["indices"])], axis=axis)

  def _broadcast(self, x, arrays, options, shape, result):
    lifted = self.whole(-1, *(1,) * (len(result) - len(shape)), *shape)
    x = self.add("Reshape", [x, lifted])
    return self.add("Expand", [x, self.whole(1, *result)])

  def _dense(self, x, arrays, options, shape, result):
    product = self.add("MatMul", [x, self.array(arrays["kernel"])])
    return self.add("Add", [product, self.array(arrays["bias"])])

  def _of_images(self, kind, x, *arrays, **attributes):
    x = self.add("Transpose", x, perm=[0, 3, 1, 2])
    x = self.add(kind, [x, *arrays], **attributes)
    return self.add("Transpose", x, perm=[0, 2, 3, 1])

  def _conv(self, x, arrays, options, shape, result):
    kernel = np.transpose(arrays["kernel"], (3, 2, 0, 1))
    return self._of_images(
        "Conv", x, self.array(kernel), self.array(arrays["bias"]),
        strides=_pair(options.get("stride", 1)), pads=_pads(options),
        dilations=_pair(options.get("dilation", 1)),
        group=options.get("groups", 1),
    )

  def _conv_transpose(self, x, arrays, options, shape, result):
    groups = options.get("groups", 1)
    kernel = np.asarray(arrays["kernel"])
    height, width, few, filters = kernel.shape
    kernel = kernel.reshape(height, width, few, groups, filters // groups)
    kernel = kernel.transpose(3, 2, 4, 0, 1)
    kernel = kernel.reshape(few * groups, filters // groups, height, width)
    pads, strides = _pads(options), _pair(options.get("stride", 1))
    extra = [max(0, -pad) for pad in pads[2:]]
    if min(pads[:2]) < 0 or any(e and e >= s for e, s in zip(extra, strides)):
      raise NotImplementedError("rows beyond what the stride makes")
    return self._of_images(
        "ConvTranspose", x, self.array(kernel), self.array(arrays["bias"]),
        strides=strides, pads=[max(0, pad) for pad in pads], group=groups,
        output_padding=extra, dilations=_pair(options.get("dilation", 1)),
    )

  def _average_pool(self, x, arrays, options, shape, result):
    return self._pool("AveragePool", x, options, count_include_pad=1)

  def _max_pool(self, x, arrays, options, shape, result):
    return self._pool("MaxPool", x, options)

  def _pool(self, kind, x, options, **attributes):
    window = _pair(options["window"])
    stride = options.get("stride")
    return self._of_images(
        kind, x, kernel_shape=window, pads=_pads(options),
        strides=window if stride is None else _pair(stride), **attributes,
    )

  def _sum_axes(self, x, arrays, options, shape, result):
    axes = self.whole(*(axis % len(shape) + 1 for axis in options["axes"]))
    return self.add("ReduceSum", [x, axes], keepdims=0)

  def _max_axes(self, x, arrays, options, shape, result):
    axes = self.whole(*(axis % len(shape) + 1 for axis in options["axes"]))
    return self.add("ReduceMax", [x, axes], keepdims=0)

  def _scale_shift(self, x, arrays, options, shape, result):
    x = self.add("Mul", [x, self.array(arrays["factor"])])
    return self.add("Add", [x, self.array(arrays["shift"])])

  def _leaky_relu(self, x, arrays, options, shape, result):
    return self.add("LeakyRelu", x, alpha=options.get("negative_slope", 0.01))

  def _silu(self, x, arrays, options, shape, result):
    return self.add("Mul", [x, self.add("Sigmoid", x)])

  def _square(self, x, arrays, options, shape, result):
    return self.add("Mul", [x, x])

  def _gelu(self, x, arrays, options, shape, result):
    approximate = options.get("approximate", False)
    return self.add("Gelu", x, approximate="tanh" if approximate else "none")

  def _clip(self, x, arrays, options, shape, result):
    if "low" in arrays:
      x = self.add("Max", [x, self.array(arrays["low"])])
    return self.add("Min", [x, self.array(arrays["high"])]) if (
        "high" in arrays) else x

  def _softmax(self, x, arrays, options, shape, result):
    axis = options.get("axis", -1) % len(shape) + 1
    return self.add("Softmax", x, axis=axis)


def _pair(number):
  return [number, number] if isinstance(number, int) else list(number)


def _pads(options):
  """ONNX's order: what is before each axis, then what is after each."""
  sides = options.get("padding", 0)
  if isinstance(sides, int):
    return [sides] * 4
  (top, bottom), (left, right) = sides
  return [top, left, bottom, right]
