"""Every operator and attribute of ONNX files, against onnxruntime."""

import contextlib
import functools

import jax
import numpy as np
import pytest

from diffai_jax.graph import from_onnx, load, save, simplify
from diffai_jax.types import UsageError
from tests.onnx_models import helper, model, node, onnx, run

_RANDOM = np.random.default_rng(0)


def _normal(*shape, scale=1.0):
  return (scale * _RANDOM.normal(size=shape)).astype(np.float32)


def _positive(*shape):
  return _RANDOM.uniform(0.5, 2, shape).astype(np.float32)


def _integers(*values):
  return np.array(values, np.int64)


def answers(graph, inputs):
  """Of the graph, as it is read and simplified."""
  return graph(inputs), simplify(graph)(inputs)


def compare(found, proto, inputs, tolerance=1e-5):
  """The answers are what onnxruntime says."""
  expected = run(proto, inputs)
  for one in found:
    np.testing.assert_allclose(
        np.reshape(one, (len(inputs), -1)), expected, rtol=tolerance,
        atol=tolerance * max(1, np.abs(expected).max()),
    )


def check(proto):
  """The graph of a file, which says what onnxruntime says."""
  graph = from_onnx(proto)
  inputs = _normal(3, *graph.input_shape)
  found = jax.jit(lambda inputs: answers(graph, inputs))(inputs)
  compare(found, proto, inputs)
  return graph


_IMAGE, _SEQUENCE, _VECTOR = (1, 4, 7, 6), (1, 4, 9), (1, 6)
_W = _normal(8, 4, 3, 2)
# By name: (nodes, input shape, arrays, operator set).
_CASES = {}


def _case(name, nodes, shape, arrays=None, opset=17):
  _CASES[name] = nodes if isinstance(nodes, list) else [nodes], shape, arrays, opset


for _name, _options, _weights in (
    ("plain", {}, _W),
    ("kernel_shape", {"kernel_shape": [3, 2]}, _W),
    ("strides", {"strides": [2, 3]}, _W),
    ("pads", {"pads": [1, 0, 2, 1]}, _W),
    ("same_upper", {"auto_pad": "SAME_UPPER", "strides": [2, 1]}, _W),
    ("same_lower", {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, _W),
    ("valid", {"auto_pad": "VALID"}, _W),
    ("dilations", {"dilations": [2, 3], "pads": [1, 1, 1, 1]}, _W),
    ("groups", {"group": 2}, _normal(6, 2, 3, 2)),
    ("depthwise", {"group": 4, "strides": [2, 2]}, _normal(4, 1, 3, 2)),
    ("all", {"group": 2, "dilations": [2, 1], "strides": [1, 2],
             "pads": [2, 1, 0, 1]}, _normal(6, 2, 3, 2)),
):
  _case(f"conv {_name}", node("Conv", ["x", "w", "b"], **_options), _IMAGE,
        {"w": _weights, "b": _normal(len(_weights))})
_case("conv without bias", node("Conv", ["x", "w"]), _IMAGE, {"w": _W})
_case("conv of sequences", node("Conv", ["x", "w", "b"], strides=[2],
                                pads=[1, 2], dilations=[2]),
      _SEQUENCE, {"w": _normal(5, 4, 3), "b": _normal(5)})
_case("conv of sequences, same",
      node("Conv", ["x", "w"], auto_pad="SAME_UPPER", group=2),
      _SEQUENCE, {"w": _normal(6, 2, 4)})
for _name, _options, _weights in (
    ("plain", {}, _normal(4, 5, 3, 2)),
    ("strides", {"strides": [2, 3]}, _normal(4, 5, 3, 2)),
    ("pads", {"strides": [2, 2], "pads": [1, 0, 2, 1]}, _normal(4, 5, 3, 3)),
    ("groups", {"group": 2, "strides": [2, 1]}, _normal(4, 3, 3, 2)),
    ("dilations", {"dilations": [2, 1]}, _normal(4, 5, 3, 2)),
    ("output_padding", {"strides": [2, 3], "output_padding": [1, 2]},
     _normal(4, 5, 3, 3)),
    ("output_shape", {"strides": [2, 2], "output_shape": [14, 13]},
     _normal(4, 5, 3, 3)),
    ("same_upper", {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
     _normal(4, 5, 3, 3)),
):
  _case(f"conv_transpose {_name}",
        node("ConvTranspose", ["x", "w", "b"], **_options), _IMAGE,
        {"w": _weights,
         "b": _normal(_weights.shape[1] * _options.get("group", 1))})
_case("conv_transpose of sequences",
      node("ConvTranspose", ["x", "w"], strides=[2], pads=[1, 0]), _SEQUENCE,
      {"w": _normal(4, 5, 3)})
for _pool in ("MaxPool", "AveragePool"):
  for _name, _options in (
      ("plain", {"kernel_shape": [2, 3]}),
      ("strides", {"kernel_shape": [2, 2], "strides": [2, 1]}),
      ("pads", {"kernel_shape": [3, 3], "strides": [2, 2],
                "pads": [1, 0, 2, 1]}),
      ("ceil", {"kernel_shape": [3, 2], "strides": [3, 3], "ceil_mode": 1}),
      ("same", {"kernel_shape": [3, 3], "strides": [2, 2],
                "auto_pad": "SAME_UPPER"}),
      ("same_lower", {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
  ):
    _case(f"{_pool} {_name}", node(_pool, "x", **_options), _IMAGE)
  _case(f"{_pool} of sequences",
        node(_pool, "x", kernel_shape=[3], strides=[2], pads=[1, 1]), _SEQUENCE)
_case("AveragePool, padding counted",
      node("AveragePool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1],
           count_include_pad=1), _IMAGE)
_case("GlobalAveragePool", node("GlobalAveragePool", "x"), _IMAGE)
_case("GlobalMaxPool", node("GlobalMaxPool", "x"), _IMAGE)
_BN = {"s": _positive(4), "b": _normal(4), "m": _normal(4), "v": _positive(4)}
_case("BatchNormalization",
      node("BatchNormalization", ["x", "s", "b", "m", "v"], epsilon=1e-3),
      _IMAGE, _BN)
_case("BatchNormalization of version 8",
      node("BatchNormalization", ["x", "s", "b", "m", "v"], momentum=0.9),
      _SEQUENCE, _BN, 8)
_case("BatchNormalization after Conv", [
    node("Conv", ["x", "w"], "h"),
    node("BatchNormalization", ["h", "s", "b", "m", "v"]),
], _IMAGE, _BN | {"w": _normal(4, 4, 3, 3)})
_B = _normal(6, 5)
for _name, _options, _arrays in (
    ("plain", {}, {"w": _B, "b": _normal(5)}),
    ("alpha and beta", {"alpha": 0.5, "beta": 2.0}, {"w": _B, "b": _normal(1, 5)}),
    ("turned", {"transB": 1}, {"w": _B.T.copy(), "b": _normal(1)}),
    ("without bias", {}, {"w": _B}),
):
  _case(f"Gemm {_name}",
        node("Gemm", ["x", *_arrays], **_options), _VECTOR, _arrays)
_case("Gemm of a constant and a value",
      node("Gemm", ["w", "x", "b"], transB=1, alpha=2.0), (1, 6),
      {"w": _normal(3, 6), "b": _normal(3, 1)})
_case("Gemm of a turned value", node("Gemm", ["x", "w"], transA=1), (6, 2),
      {"w": _normal(6, 3)})
_case("Gemm of a value plus a value", [
    node("Relu", "x", "r"), node("Gemm", ["x", "w", "r"], beta=0.5),
], (1, 6), {"w": _normal(6, 6)})
_case("MatMul", node("MatMul", ["x", "w"]), _VECTOR, {"w": _B})
_case("MatMul and Add", [
    node("MatMul", ["x", "w"], "h"), node("Add", ["b", "h"]),
], _VECTOR, {"w": _B, "b": _normal(5)})
_case("MatMul and Add that broadcasts", [
    node("MatMul", ["x", "w"], "h"), node("Add", ["h", "b"]),
], _VECTOR, {"w": _normal(6, 1), "b": _normal(5)})
_case("MatMul of words", node("MatMul", ["x", "w"]), (1, 3, 6), {"w": _B})
_case("MatMul with a vector", node("MatMul", ["x", "w"]), (1, 3, 6),
      {"w": _normal(6)})
_case("MatMul from the left", node("MatMul", ["w", "x"]), (1, 6, 3),
      {"w": _normal(5, 6)})
_case("MatMul of one vector", node("MatMul", ["w", "x"]), (6,),
      {"w": _normal(5, 6)})
_case("MatMul of rank 3", node("MatMul", ["x", "w"]), _VECTOR,
      {"w": _normal(1, 6, 5)})
for _kind in ("Add", "Sub", "Mul", "Div"):
  for _name, _array in (
      ("number", np.float32(1.7)), ("channels", _positive(4, 1, 1)),
      ("all", _positive(1, 4, 7, 6)), ("columns", _positive(6)),
  ):
    _case(f"{_kind} {_name}", node(_kind, ["x", "c"]), _IMAGE, {"c": _array})
  _case(f"constant {_kind}", [
      node("Softplus", "x", "p"), node(_kind, ["c", "p"])
  ], _IMAGE, {"c": _positive(4, 1, 1)})
  _case(f"{_kind} of two values", [
      node("Softplus", "x", "p"), node("Conv", ["p", "w"], "h"),
      node("Relu", "h", "r"), node("Add", ["r", "one"], "s"),
      node(_kind, ["p", "s"]),
  ], _IMAGE, {"w": _normal(4, 4, 1, 1), "one": np.float32(1)})
  _case(f"{_kind} of values that broadcast", [
      node("GlobalAveragePool", "x", "g"), node("Softplus", "g", "p"),
      node(_kind, ["x", "p"]),
  ], _IMAGE)
  _case(f"{_kind} makes a value larger", node(_kind, ["x", "c"]), (1, 1, 6),
        {"c": _positive(3, 1)})
_case("Sum", node("Sum", ["x", "c", "x"]), _VECTOR, {"c": _normal(6)})
_case("square by Mul", node("Mul", ["x", "x"]), _VECTOR)
_case("silu", [node("Sigmoid", "x", "s"), node("Mul", ["s", "x"])], _VECTOR)
for _kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Erf", "Exp", "Neg", "Abs"):
  _case(_kind, node(_kind, "x"), _IMAGE)
for _kind in ("Log", "Sqrt", "Reciprocal"):
  _case(_kind, [node("Softplus", "x", "p"), node(_kind, "p")], _IMAGE)
for _exponent in (1, 2, 3, 4):
  _case(f"Pow {_exponent}", node("Pow", ["x", "e"]), _IMAGE,
        {"e": np.float32(_exponent)})
_case("Pow 0.5", [node("Softplus", "x", "p"), node("Pow", ["p", "e"])], _VECTOR,
      {"e": np.float32(0.5)})
_case("LeakyRelu", node("LeakyRelu", "x", alpha=0.2), _IMAGE)
_case("PRelu", node("PRelu", ["x", "s"]), _IMAGE, {"s": np.full(1, 0.3, "f")})
for _alpha in (1.0, 0.4):
  _case(f"Elu {_alpha}", node("Elu", "x", alpha=_alpha), _IMAGE)
  _case(f"Celu {_alpha}", node("Celu", "x", alpha=_alpha), _IMAGE)
_case("Selu", node("Selu", "x"), _IMAGE)
_case("Selu of its own", node("Selu", "x", alpha=1.2, gamma=0.7), _IMAGE)
_case("HardSigmoid", node("HardSigmoid", "x", alpha=0.3), _IMAGE)
for _approximate in ("none", "tanh"):
  _case(f"Gelu {_approximate}",
        node("Gelu", "x", approximate=_approximate), _IMAGE, opset=20)
_LOW, _HIGH = np.float32(-0.5), np.float32(0.7)
_case("Clip", node("Clip", ["x", "l", "h"]), _IMAGE, {"l": _LOW, "h": _HIGH})
_case("Clip above", node("Clip", ["x", "", "h"]), _IMAGE, {"h": _HIGH})
_case("Clip below", node("Clip", ["x", "l"]), _IMAGE, {"l": _LOW})
_case("Clip of version 6", node("Clip", "x", min=-0.5, max=0.7), _IMAGE, opset=6)
_case("Clip without bounds", node("Clip", "x"), _VECTOR)
for _kind in ("Min", "Max"):
  _case(f"{_kind} of constants", node(_kind, ["x", "c", "d"]), _IMAGE,
        {"c": _normal(4, 1, 1), "d": _normal(6)})
  _case(f"{_kind} of values",
        [node("Neg", "x", "n"), node(_kind, ["x", "n", "c"])],
        _IMAGE, {"c": np.float32(0.1)})
_case("Softmax", node("Softmax", "x"), _IMAGE)
_case("Softmax over channels", node("Softmax", "x", axis=1), _IMAGE)
_case("Softmax of version 11", node("Softmax", "x", axis=1), _IMAGE, opset=11)
_case("Softmax of vectors of version 11", node("Softmax", "x"), _VECTOR, opset=11)
for _axis in (0, 1, 2, -1):
  _case(f"Flatten {_axis}", node("Flatten", "x", axis=_axis), _IMAGE)
for _name, _shape in (
    ("[1, -1]", (1, -1)), ("[-1, 24]", (-1, 24)), ("[0, -1]", (0, -1)),
    ("[1, 2, 2, 42]", (1, 2, 2, 42)), ("[-1]", (-1,)), ("[7, 24]", (7, 24)),
):
  _case(f"Reshape {_name}", node("Reshape", ["x", "s"]), _IMAGE,
        {"s": _integers(*_shape)})
_case("Reshape to an image for Conv", [
    node("Reshape", ["x", "s"], "h"), node("Conv", ["h", "w"]),
], (1, 168), {"s": _integers(1, 4, 7, 6), "w": _W})
_case("Reshape by Shape", [
    node("Shape", "x", "a"), node("Gather", ["a", "i"], "g", axis=0),
    node("Unsqueeze", ["g", "z"], "u"), node("Concat", ["u", "m"], "s", axis=0),
    node("Reshape", ["x", "s"]),
], ("N", 4, 7, 6), {"i": np.int64(0), "z": _integers(0), "m": _integers(-1)})
for _perm in ((0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0)):
  _case(f"Transpose {_perm}", node("Transpose", "x", perm=_perm), _IMAGE)
_case("Transpose to channels first, Conv, and back", [
    node("Transpose", "x", "h", perm=(0, 3, 1, 2)), node("Conv", ["h", "w"], "c"),
    node("Transpose", "c", perm=(0, 2, 3, 1)),
], (1, 7, 6, 4), {"w": _W})
_CONV = node("Conv", ["x", "w"], "h")
for _axis in (1, 2, -1):
  _case(f"Concat {_axis}", [
      _CONV, node("Tanh", "h", "t"), node("Concat", ["h", "t", "c"], axis=_axis),
  ], _IMAGE, {"w": _normal(4, 4, 1, 1), "c": _normal(*_IMAGE)})
_case("Concat of vectors", node("Concat", ["x", "x", "c"], axis=1), _VECTOR,
      {"c": _normal(1, 2)})
for _name, _inputs in (
    ("plain", (_integers(1, 2), _integers(3, 5), _integers(1, 3))),
    ("steps", (_integers(0, 5), _integers(9, -9), _integers(1, 3),
               _integers(2, -1))),
    ("to the end", (_integers(-3), _integers(2**63 - 1), _integers(2))),
):
  _case(f"Slice {_name}",
        [_CONV, node("Slice", ["h", *(f"i{n}" for n in range(len(_inputs)))])],
        _IMAGE, {"w": _normal(4, 4, 1, 1)} | {
            f"i{n}": array for n, array in enumerate(_inputs)})
_case("Slice of version 9",
      node("Slice", "x", starts=[1], ends=[3], axes=[1]), _IMAGE, opset=9)
_case("Split", [
    node("Split", ["x", "s"], ["a", "b"], axis=1), node("Concat", ["b", "a"], axis=1)
], _IMAGE, {"s": _integers(1, 3)})
_case("Split of version 11", [
    node("Split", "x", ["a", "b"], axis=1), node("Sub", ["a", "b"])
], _IMAGE, opset=11)
_case("Split of version 18", [
    node("Split", "x", ["a", "b"], axis=2, num_outputs=2),
    node("Concat", ["b", "a"], axis=2)
], _IMAGE, opset=18)
_case("Gather", node("Gather", ["x", "i"], axis=1), _IMAGE,
      {"i": _integers(3, 0, 0)})
_case("Gather one", node("Gather", ["x", "i"], axis=2), _IMAGE,
      {"i": np.int64(-2)})
_case("Gather in a table", node("Gather", ["x", "i"], axis=1), _VECTOR,
      {"i": np.array([[0, 1], [5, 2]])})
_case("Gather the batch", node("Gather", ["x", "i"], axis=0), _IMAGE,
      {"i": np.int64(0)})
_PADS = _integers(0, 1, 2, 0, 0, 0, 1, 3)
_case("Pad", node("Pad", ["x", "p"]), _IMAGE, {"p": _PADS})
_case("Pad with a number", node("Pad", ["x", "p", "v"]), _IMAGE,
      {"p": _PADS, "v": np.float32(0.3)})
_case("Pad crops", node("Pad", ["x", "p"]), _IMAGE,
      {"p": _integers(0, 0, -1, 1, 0, 0, 1, -2)})
_case("Pad of version 2", node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5),
      _IMAGE, opset=2)
_case("Pad of version 18", node("Pad", ["x", "p", "", "a"]), _IMAGE,
      {"p": _integers(1, 2, 0, 1), "a": _integers(3, 2)}, 18)
for _mode in ("reflect", "edge"):
  _case(f"Pad {_mode}", node("Pad", ["x", "p"], mode=_mode), _IMAGE,
        {"p": _PADS})
_case("Expand", node("Expand", ["x", "s"]), (1, 1, 6), {"s": _integers(1, 3, 1)})
_case("Tile", node("Tile", ["x", "s"]), (1, 2, 3), {"s": _integers(1, 2, 2)})
_case("Squeeze", [node("Unsqueeze", ["x", "a"], "h"), node("Squeeze", ["h", "b"])],
      _VECTOR, {"a": _integers(1, 3), "b": _integers(1)})
_case("Squeeze of version 11", [
    node("Unsqueeze", "x", "h", axes=[1, 2]), node("Squeeze", "h", axes=[1])
], _VECTOR, opset=11)
_case("Squeeze all", [node("GlobalAveragePool", "x", "h"), node("Squeeze", "h")],
      _IMAGE)
for _kind in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
  _new = _kind == "ReduceSum"
  for _keep in (0, 1):
    for _axes in ([2, 3], [1], [-1]):
      _name = f"{_kind} {_axes} {_keep}"
      if _new:
        _case(_name, node(_kind, ["x", "a"], keepdims=_keep), _IMAGE,
              {"a": _integers(*_axes)})
      else:
        _case(_name, node(_kind, "x", axes=_axes, keepdims=_keep), _IMAGE)
  _case(f"{_kind} of all", node(_kind, "x"), _IMAGE)
_case("ReduceMean of version 18", node("ReduceMean", ["x", "a"]), _IMAGE,
      {"a": _integers(2, 3)}, 18)
_case("ReduceSum of pixels after Conv", [
    _CONV, node("ReduceSum", ["h", "a"], keepdims=0)
], _IMAGE, {"w": _W, "a": _integers(2, 3)})
_case("Identity, Cast, Dropout", [
    node("Identity", "x", "i"), node("Cast", "i", "c", to=1),
    node("Dropout", ["c", "r", "t"]),
], _VECTOR, {"r": np.float32(0.5), "t": np.bool_(False)})
_case("Dropout of version 7", node("Dropout", "x", ratio=0.3), _VECTOR, opset=7)
_case("Constant and ConstantOfShape", [
    node("Constant", [], "k", value=onnx.numpy_helper.from_array(_normal(6))),
    node("Constant", [], "s", value_ints=[6]),
    node("ConstantOfShape", "s", "z",
         value=onnx.numpy_helper.from_array(np.full(1, 2, "f"))),
    node("Mul", ["k", "z"], "m"), node("Mul", ["x", "m"]),
], _VECTOR)
_case("Upsample of version 9", node("Upsample", ["x", "s"]), _IMAGE,
      {"s": np.array([1, 1, 2, 3], "f")}, 9)
for _where in ("asymmetric", "half_pixel", "align_corners"):
  for _rule in ("floor", "round_prefer_floor"):
    _case(f"Resize {_where} {_rule}",
          node("Resize", ["x", "", "s"], coordinate_transformation_mode=_where,
               nearest_mode=_rule), _IMAGE,
          {"s": np.array([1, 1, 2, 3], "f")}, 13)
_case("Resize to sizes", node("Resize", ["x", "", "", "s"]), _IMAGE,
      {"s": _integers(1, 4, 14, 6)}, 13)
_case("attention", [
    node("MatMul", ["x", "q"], "a"), node("MatMul", ["x", "k"], "b"),
    node("Transpose", "b", "c", perm=(0, 2, 1)), node("MatMul", ["a", "c"], "d"),
    node("Softmax", "d", "e", axis=-1), node("MatMul", ["e", "x"]),
], (1, 3, 4), {"q": _normal(4, 2), "k": _normal(4, 2)})


_TOGETHER = 30  # So many cases are one program.


@functools.cache
def _of_cases(number):
  """By name: (inputs, answers) of some cases that follow each other."""
  names = list(_CASES)[number * _TOGETHER : (number + 1) * _TOGETHER]
  graphs = {}
  for name in names:
    with contextlib.suppress(UsageError):  # Which that case's own test shows.
      graphs[name] = from_onnx(model(*_CASES[name]))
  inputs = {n: _normal(3, *graph.input_shape) for n, graph in graphs.items()}
  found = jax.jit(lambda inputs: {
      name: answers(graphs[name], x) for name, x in inputs.items()
  })(inputs)
  return {name: (inputs[name], found[name]) for name in graphs}


@pytest.mark.parametrize("name", _CASES)
def test_operators(name):
  proto = model(*_CASES[name])
  from_onnx(proto)
  inputs, found = _of_cases(list(_CASES).index(name) // _TOGETHER)[name]
  compare(found, proto, inputs)


@pytest.mark.parametrize("seed", range(6))
def test_random_convnets(seed):
  """Convolutions, norms, pools and sums in a row, then two dense layers."""
  random = np.random.default_rng(seed)
  nodes, arrays, at, channels = [], {}, "x", 3

  def add(kind, inputs, **attributes):
    nonlocal at
    name = f"v{len(nodes)}"
    nodes.append(node(kind, inputs, name, **attributes))
    at = name

  def array(value):
    name = f"a{len(arrays)}"
    arrays[name] = np.asarray(value, np.float32)
    return name

  normal = lambda *shape: random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
  for _ in range(3):
    before, filters = at, int(random.integers(2, 5))
    add("Conv", [at, array(normal(filters, channels, 3, 3)), array(normal(filters))],
        pads=[1] * 4)
    channels = filters
    if random.random() < 0.5:
      add("BatchNormalization", [
          at, *(array(f(filters)) for f in (normal, normal, normal, np.ones))
      ])
    add(str(random.choice(["Relu", "Tanh", "LeakyRelu", "Sigmoid"])), [at])
    if random.random() < 0.5:
      other, entering = at, _channels(nodes, arrays, before)
      add("Conv", [before, array(normal(filters, entering, 1, 1))])
      add("Add", [at, other])
    elif random.random() < 0.5:
      add("MaxPool", [at], kernel_shape=[2, 2], strides=[1, 1])
      break
  add("Flatten", [at])
  graph = from_onnx(model(nodes, ("N", 3, 6, 5), arrays, output=at))
  size = graph.output_shape[0]
  add("Gemm", [at, array(normal(7, size)), array(normal(7))], transB=1)
  add("Relu", [at])
  add("MatMul", [at, array(normal(7, 3))])
  add("Add", [at, array(normal(3))])
  proto = model(nodes, ("N", 3, 6, 5), arrays, output=at)
  graph = check(proto)
  kinds = [call.transformer for call in simplify(graph).calls]
  # One at the input: the one before flattening is part of the kernel.
  assert kinds.count("transpose") == 1


def _channels(nodes, arrays, name):
  """Of a value: those of the last convolution up to it."""
  found = 3
  for one in nodes:
    if one.op_type == "Conv" and name != "x":
      found = len(arrays[one.input[1]])
    if one.output[0] == name:
      break
  return found


def test_saved_graphs_are_the_same(tmp_path):
  graph = check(model(*_CASES["conv all"][:3]))
  save(graph, tmp_path / "net.npz")
  x = _normal(2, *graph.input_shape)
  np.testing.assert_array_equal(load(tmp_path / "net.npz")(x), graph(x))


@pytest.mark.parametrize("shape, taken", [
    (("N", 6), (6,)), ((1, 6), (6,)), ((6,), (6,)), ((1, 1, 1, 6), (1, 1, 6)),
    ((2, 6), (2, 6)),
])
def test_inputs_with_and_without_a_batch_axis(shape, taken):
  graph = check(model([node("MatMul", ["x", "w"])], shape, {"w": _B}))
  assert graph.input_shape == taken


def test_several_outputs():
  graph = from_onnx(model([
      node("Relu", "x", "a"), node("Neg", "a", "b"),
  ], _VECTOR, output=["b", "a"]))
  x = _normal(2, 6)
  for found, wanted in zip(graph(x), (-np.maximum(x, 0), np.maximum(x, 0))):
    np.testing.assert_array_equal(found, wanted)


def test_half_and_double_precision_are_read():
  for kind in ("float16", "float64"):
    proto = model([node("MatMul", ["x", "w"])], _VECTOR,
                  {"w": _B.astype(kind)}, kind=kind)
    x = _normal(2, 6)
    np.testing.assert_allclose(
        from_onnx(proto)(x), x @ _B.astype(kind).astype(np.float32), rtol=1e-5,
        atol=1e-5,
    )


def test_paths_bytes_and_local_functions(tmp_path):
  body = helper.make_function(
      "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], "b")],
      [helper.make_opsetid("", 17)],
  )
  proto = model([helper.make_node("Twice", ["x"], ["y"], domain="own")], _VECTOR)
  proto.opset_import.append(helper.make_opsetid("own", 1))
  proto.functions.append(body)
  path = tmp_path / "net.onnx"
  path.write_bytes(proto.SerializeToString())
  x = _normal(2, 6)
  for source in (path, str(path), path.read_bytes(), proto):
    np.testing.assert_allclose(from_onnx(source)(x), 2 * x)


_X = model([node("Relu", "x")], _VECTOR)


@pytest.mark.parametrize("proto, message", [
    (model([node("Sinh", "x")], _VECTOR), "ONNX's Sinh at 'y': this operator is not"),
    (model([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])], _IMAGE),
     r"MaxPool at 'y': dilations are \[2, 2\]"),
    (model([node("Relu", "x", odd=3)], _VECTOR), "its attribute odd=3 is not supp"),
    (model([node("Dropout", ["x", "r", "t"])], _VECTOR,
           {"r": np.float32(0.5), "t": np.bool_(True)}), "it drops out"),
    (model([node("Conv", ["x", "x"])], _IMAGE), "input 1 is computed from the netw"),
    (model([node("Conv", ["x", "w"])], (5, 4, 7, 6), {"w": _W}), "fixed to 5"),
    (model([node("Conv", ["x", "w"])], (1, 3, 7, 6), {"w": _W}), "3 channels"),
    (model([node("Relu", "z")], _VECTOR), "takes 'z', which nothing before it"),
    (model([node("Relu", "x")], _VECTOR, output="z"), "'z' is computed nowhere"),
    (model([node("Relu", "x")], (1, "H", "W", 3)), r"is \[1, H, W, 3\]; all sizes"),
    (model([node("Reshape", ["x", "s"])], _VECTOR, {"s": _integers(2, 4)}),
     "does not fit"),
    (model([node("MatMul", ["x", "w"])], _VECTOR, {"w": _normal(7, 2)}),
     "cannot be read .*do not fit"),
    (model([node("Resize", ["x", "", "s"], mode="linear")], _IMAGE,
           {"s": np.ones(4, "f")}), "mode is 'linear'; supported are nearest"),
    (model([node("BatchNormalization", ["x", "s", "b", "m", "v"],
                 training_mode=1)], _IMAGE, _BN), "training_mode is 1"),
    (model([node("Pow", ["x", "e"])], _VECTOR, {"e": np.float32(2.5)}), "2.5"),
    (model([node("Div", ["x", "e"])], _VECTOR, {"e": np.float32(0)}), "by 0"),
    (model([node("RandomNormal", [], "r", shape=[6]), node("Add", ["x", "r"])],
           _VECTOR), "random numbers"),
    (model([node("Constant", [], "y", value_float=1.0)], _VECTOR), "computed from"),
    (b"", "no ONNX file, or is damaged"),
    (b"\x00\x01garbage", "no ONNX file, or is damaged"),
    (_X.SerializeToString()[:-20], "damaged|nowhere|no outputs"),
    ("/nowhere/net.onnx", "cannot read '/nowhere/net.onnx'"),
    (3, "3 is no ONNX network"),
], ids=str)
def test_what_is_refused_in_one_line(proto, message):
  with pytest.raises(UsageError, match=message) as caught:
    from_onnx(proto)
  assert "\n" not in str(caught.value)


def test_several_inputs_are_refused():
  proto = model([node("Relu", "x")], _VECTOR)
  proto.graph.input.append(helper.make_tensor_value_info("z", 1, [1, 2]))
  with pytest.raises(UsageError, match=r"the inputs \['x', 'z'\]"):
    from_onnx(proto)


def test_truncated_files_are_one_line():
  """Wherever a file ends, it is read or refused; nothing else happens."""
  content = model(*_CASES["BatchNormalization after Conv"][:3]).SerializeToString()
  for end in range(0, len(content), 37):
    try:
      from_onnx(content[:end])
    except UsageError as error:
      assert "\n" not in str(error)


def test_without_the_package(monkeypatch):
  import sys
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(UsageError, match=r"pip install diffai_jax\[onnx\]"):
    from_onnx("net.onnx")
