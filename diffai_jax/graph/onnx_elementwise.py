"""ONNX's elementwise operators: arithmetic, activations, softmax."""

from collections.abc import Callable
import functools
import math

import numpy as np

from diffai_jax import transformers as t
from diffai_jax.graph.onnx_file import Handler, Node
from diffai_jax.graph.onnx_values import (
    Flow,
    met,
    reshaped,
    scaled,
    together,
    with_axis,
)

# By kind of node.
ELEMENTWISE: dict[str, Handler] = {}

_LARGEST = float(np.finfo(np.float32).max)  # Old files' way to say: no bound.


def _handles(*kinds: str):
  def keep(handler: Handler) -> Handler:
    ELEMENTWISE.update((kind, handler) for kind in kinds)
    return handler
  return keep


def _unary(kind: str, act: Callable) -> None:
  """A kind of node that has a transformer for it."""
  ELEMENTWISE[kind] = lambda node: node.flow().of(act(node.flow().value))


_unary("Relu", lambda x: t.relu(x))
_unary("Tanh", lambda x: t.tanh(x))
_unary("Softplus", lambda x: t.softplus(x))
_unary("Erf", lambda x: t.erf(x))
_unary("Exp", lambda x: t.exp(x))
_unary("Log", lambda x: t.log(x))
_unary("Sqrt", lambda x: t.sqrt(x))
_unary("Abs", lambda x: t.absolute(x))
_unary("Reciprocal", lambda x: t.reciprocal(x))


@_handles("Neg")
def _negative(node: Node) -> Flow:
  return scaled(node.flow(), -1.0, 0.0)


@_handles("Sigmoid")
def _sigmoid(node: Node) -> Flow:
  flow = node.flow()
  value = t.sigmoid(flow.value)
  return Flow(value, flow.shape, flow.axes, sigmoid_of=flow)


@_handles("Add", "Sum")
def _add(node: Node) -> Flow:
  _old_broadcast(node)
  return functools.reduce(_sum, node.inputs)


def _sum(x, y):
  if isinstance(x, Flow) and isinstance(y, Flow):
    x, y = together([x, y])
    return x.of(t.add(x.value, y.value))
  if isinstance(y, Flow):
    x, y = y, x
  return scaled(x, 1.0, y) if isinstance(x, Flow) else x + y


@_handles("Sub")
def _subtract(node: Node) -> Flow:
  _old_broadcast(node)
  x, y = node.inputs
  if isinstance(x, Flow) and isinstance(y, Flow):
    x, y = together([x, y])
    return x.of(t.subtract(x.value, y.value))
  if isinstance(x, Flow):
    return scaled(x, 1.0, -np.asarray(y))
  return scaled(y, -1.0, x)


@_handles("Mul")
def _multiply(node: Node) -> Flow:
  _old_broadcast(node)
  x, y = node.inputs
  if not (isinstance(x, Flow) and isinstance(y, Flow)):
    return scaled(x, y, 0.0) if isinstance(x, Flow) else scaled(y, x, 0.0)
  if x is y:
    return x.of(t.square(x.value))
  for one, other in ((x, y), (y, x)):
    if one.sigmoid_of is other:  # Sharper than the product.
      return other.of(t.silu(other.value))
  return _product(x, y)


def _product(x: Flow, y: Flow) -> Flow:
  x, y = together([x, y])
  return x.of(t.multiply(x.value, y.value))


@_handles("Div")
def _divide(node: Node) -> Flow:
  _old_broadcast(node)
  x, y = node.inputs
  if not isinstance(y, Flow):
    divisor = np.asarray(y, np.float64)
    if not divisor.all():
      raise node.error("it divides by 0")
    return scaled(x, 1 / divisor, 0.0, terms=2)
  inverse = y.of(t.reciprocal(y.value))
  return _product(x, inverse) if isinstance(x, Flow) else scaled(inverse, x, 0.0)


@_handles("Pow")
def _power(node: Node) -> Flow:
  _old_broadcast(node)
  flow, exponent = node.flow(), node.constant(1)
  value = flow.value
  number = float(exponent.flat[0]) if np.ptp(exponent) == 0 else None
  if number == 1:
    result = value
  elif number == 2:
    result = t.square(value)
  elif number == 3:
    result = t.multiply(value, t.square(value))
  elif number == 4:
    result = t.square(t.square(value))
  elif number == 0.5:
    result = t.sqrt(value)
  elif number == -1:
    result = t.reciprocal(value)
  else:
    raise node.error(
        f"the exponent is {number}; supported are 1, 2, 3, 4, 0.5 and -1"
    )
  return flow.of(result)


def _old_broadcast(node: Node) -> None:
  """Files before version 7 of the operators say how shapes meet."""
  if node.attribute("broadcast", 0) and node.attribute("axis") is not None:
    raise node.error(
        "it broadcasts along an axis, as files before operator set 7 do; export it"
        " with a newer one"
    )


@_handles("LeakyRelu")
def _leaky_relu(node: Node) -> Flow:
  flow = node.flow()
  return flow.of(t.leaky_relu(flow.value, node.attribute("alpha", 0.01)))


@_handles("PRelu")
def _prelu(node: Node) -> Flow:
  flow, slope = node.flow(), node.constant(1)
  if np.ptp(slope) != 0:
    raise node.error("its slopes differ; supported is one for all channels")
  return flow.of(t.leaky_relu(flow.value, float(slope.flat[0])))


@_handles("Elu")
def _elu(node: Node) -> Flow:
  return _elu_of(node.flow(), node.attribute("alpha", 1.0))


def _elu_of(flow: Flow, alpha: float) -> Flow:
  """α·elu(x) + (1 - α)·relu(x), which is x above 0 and α·(e^x - 1) below."""
  value = t.elu(flow.value)
  if alpha == 1:
    return flow.of(value)
  return _sum(
      scaled(flow.of(value), alpha, 0.0),
      scaled(flow.of(t.relu(flow.value)), 1 - alpha, 0.0),
  )


@_handles("Celu")
def _celu(node: Node) -> Flow:
  """α·elu(x/α)."""
  alpha, flow = node.attribute("alpha", 1.0), node.flow()
  if alpha == 1:
    return _elu_of(flow, 1.0)
  inner = scaled(flow, 1 / alpha, 0.0, terms=2)
  return scaled(_elu_of(inner, 1.0), alpha, 0.0)


@_handles("Selu")
def _selu(node: Node) -> Flow:
  flow = node.flow()
  alpha = node.attribute("alpha", 1.6732632423543772)
  gamma = node.attribute("gamma", 1.0507009873554805)
  if abs(alpha - 1.67326324) < 1e-6 and abs(gamma - 1.05070099) < 1e-6:
    return flow.of(t.selu(flow.value))
  return scaled(_elu_of(flow, alpha), gamma, 0.0)


@_handles("Gelu")
def _gelu(node: Node) -> Flow:
  flow = node.flow()
  if node.only("approximate", "none", "tanh") == "tanh":
    return flow.of(t.gelu(flow.value, approximate=True))
  return flow.of(t.gelu(flow.value))


@_handles("HardSigmoid")
def _hard_sigmoid(node: Node) -> Flow:
  alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
  return _clipped(scaled(node.flow(), alpha, beta), 0.0, 1.0)


@_handles("Clip")
def _clip(node: Node) -> Flow:
  low, high = (
      node.constant(number, node.attribute(name))
      for number, name in ((1, "min"), (2, "max"))
  )
  if low is not None and np.all(np.asarray(low) <= -_LARGEST):
    low = None
  if high is not None and np.all(np.asarray(high) >= _LARGEST):
    high = None
  return _clipped(node.flow(), low, high)


def _clipped(flow: Flow, low, high) -> Flow:
  """min(max(x, low), high), of constants in ONNX's order; None is no bound."""
  if low is None and high is None:
    return flow
  if high is None and not np.any(low):
    return flow.of(t.relu(flow.value))
  shape = np.broadcast_shapes(
      *(np.shape(end) for end in (low, high) if end is not None)
  )
  flow, _ = met(flow, np.zeros(shape))
  low, high = (
      None if end is None else np.asarray(met(flow, end)[1], flow.value.dtype)
      for end in (low, high)
  )
  return flow.of(t.clip(flow.value, low, high))


@_handles("Max")
def _maximum(node: Node) -> Flow:
  flows, constant = _split(node, np.maximum)
  found = _joined(flows, t.maximum) if len(flows) > 1 else flows[0]
  return _clipped(found, constant, None)


@_handles("Min")
def _minimum(node: Node) -> Flow:
  flows, constant = _split(node, np.minimum)
  found = _joined(flows, t.minimum) if len(flows) > 1 else flows[0]
  return _clipped(found, None, constant)


def _split(node: Node, join) -> tuple[list[Flow], np.ndarray | None]:
  flows = [value for value in node.inputs if isinstance(value, Flow)]
  rest = [value for value in node.inputs if not isinstance(value, Flow)]
  return flows, functools.reduce(join, rest) if rest else None


def _joined(flows: list[Flow], join) -> Flow:
  flows = together(flows)
  value = functools.reduce(join, (flow.value for flow in flows))
  return flows[0].of(value)


@_handles("Softmax")
def _softmax(node: Node) -> Flow:
  flow = node.flow()
  axis = node.axis(
      node.attribute("axis", -1 if node.opset >= 13 else 1), flow.rank
  )
  if node.opset < 13:
    # Over all axes from that one on, as if they were one.
    if math.prod(flow.shape[axis:]) != flow.shape[axis]:
      whole = (math.prod(flow.shape[:axis]), math.prod(flow.shape[axis:]))
      flat = _softmax_over(reshaped(flow, whole), 1)
      return reshaped(flat, flow.shape)
  return _softmax_over(flow, axis)


def _softmax_over(flow: Flow, axis: int) -> Flow:
  flow = with_axis(flow, axis)
  return flow.of(t.softmax(flow.value, axis=flow.position(axis)))


@_handles("Cast")
def _cast(node: Node) -> Flow:
  node.ignore("saturate", "round_mode")
  # FLOAT, FLOAT16, DOUBLE and BFLOAT16: all of the network is in one type.
  node.only("to", 1, 10, 11, 16)
  return node.flow()


@_handles("Identity")
def _identity(node: Node) -> Flow:
  return node.flow()


@_handles("Dropout")
def _dropout(node: Node) -> Flow:
  node.ignore("ratio", "seed", "is_test")
  if np.any(node.constant(2, False)):
    raise node.error("it drops out; export the network as it is evaluated")
  return node.flow()
