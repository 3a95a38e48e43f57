"""Reading ONNX files into graphs."""

import functools

import numpy as np

from diffai_jax.graph.building import Builder
from diffai_jax.graph.graph import Graph
from diffai_jax.graph.onnx_elementwise import ELEMENTWISE
from diffai_jax.graph.onnx_file import (
    Handler,
    Node,
    constants,
    evaluated,
    input_of,
    opened,
)
from diffai_jax.graph.onnx_layers import LAYERS
from diffai_jax.graph.onnx_moves import MOVES
from diffai_jax.graph.onnx_values import Flow, arranged, natural
from diffai_jax.text.suggest import nearest
from diffai_jax.types import UsageError, reason, shown

# What makes calls of each kind of node.
OPERATORS: dict[str, Handler] = LAYERS | ELEMENTWISE | MOVES

_DOMAINS = ("", "ai.onnx")
# Of constants, they would be other numbers at each run of the file.
_RANDOM = ("Random", "Multinomial", "Bernoulli")


def from_onnx(source, *, dtype=np.float32) -> Graph:
  """The graph of an ONNX network of one input.

  The graph takes inputs [N, ...] in the file's own layout, for any N: images
  [N, C, H, W] where the file takes [1, C, H, W]. The file's first axis is its batch
  if it is 1 or has no fixed size, whatever else the file does with a batch of 1; a
  file whose input is [784] or [3, 32, 32] has none, and its inputs are [N, 784] or
  [N, 3, 32, 32]. Likewise outputs are [N, ...], in the file's layout without a
  leading axis of size 1.

  Inside, images have their channels last, so that of a convolutional network one
  transpose is left at its input, and one before it is flattened, which `simplify`
  makes part of the dense layer. What does not depend on the input is computed while
  reading. Calls bear the names of the file's nodes.

  Args:
    source: a path, the content of a file (bytes), or a model of the package onnx.
    dtype: what the network computes in; weights are rounded to it.

  Returns:
    A graph with as many outputs as the file has.

  Raises:
    UsageError: in one line, if the file cannot be read, or uses an operator or an
      attribute that is not supported, or the package onnx is missing.
  """
  model = opened(source)
  values = constants(model)
  name, shape = input_of(model, values)
  axes = natural(shape)
  builder = Builder([shape[axis] for axis in axes], dtype)
  values[name] = Flow(builder.input, shape, axes)
  uses = _uses(model)
  absorbed: dict[int, str] = {}  # Additions that are part of a layer.
  opset = max(
      (o.version for o in model.opset_import if o.domain in _DOMAINS), default=1
  )
  for proto in model.graph.node:
    if id(proto) in absorbed:
      values[proto.output[0]] = values[absorbed[id(proto)]]
      continue
    given = [_input(proto, name, values) for name in proto.input]
    after = functools.partial(_bias_after, proto, uses, values, absorbed)
    with builder.named(proto.name or next(iter(proto.output), "")):
      found = _outputs(proto, given, model, opset, builder.input.dtype, after)
    values.update(
        (name, value) for name, value in zip(proto.output, found) if name
    )
  outputs = []
  for output in model.graph.output:
    value = values.get(output.name)
    if value is None:
      raise UsageError(
          f"the ONNX network's output {shown(output.name)} is computed nowhere; the"
          f" file is damaged"
      )
    if isinstance(value, Flow):
      with builder.named(output.name):
        value = arranged(value, natural(value.shape)).value
    outputs.append(value)
  return builder.graph(*outputs)


def _input(proto, name: str, values: dict):
  """A node's input; None if it is left out."""
  if name and name not in values:
    raise UsageError(
        f"ONNX's {proto.op_type} at {shown(proto.name)} takes {shown(name)}, which"
        f" nothing before it gives; supported is one output of each operator, and"
        f" nodes in the order in which they run"
    )
  return values[name] if name else None


def _outputs(proto, given: list, model, opset: int, dtype, bias_after) -> list:
  """What a node makes of its inputs: values, and arrays of constants."""
  node = Node(proto, given, opset, dtype, bias_after)
  try:
    depends = any(isinstance(value, Flow) for value in given)
    if not depends:
      if proto.op_type.startswith(_RANDOM):
        raise node.error("it draws random numbers; export the network without")
      return evaluated(proto, given, model.opset_import)
    handler = OPERATORS.get(proto.op_type)
    if handler is None or proto.domain not in _DOMAINS:
      guess = nearest(proto.op_type, OPERATORS)
      hint = f"did you mean {guess}? " if guess else ""
      raise node.error(
          f"this operator is not supported; {hint}supported are"
          f" {', '.join(sorted(OPERATORS))}"
      )
    found = handler(node)
    node.finish()
    return found if isinstance(found, list) else [found]
  except UsageError:
    raise
  except Exception as error:  # Of damaged files, in any operator.
    raise node.error(
        f"it cannot be read ({reason(error)}); inputs are"
        f" {shown([list(np.shape(v)) for v in given if v is not None])}"
    ) from None


def _uses(model) -> dict[str, list]:
  """The nodes that use a value, by its name; None stands for the outside."""
  uses: dict[str, list] = {}
  for node in model.graph.node:
    for name in node.input:
      uses.setdefault(name, []).append(node)
  for output in model.graph.output:
    uses.setdefault(output.name, []).append(None)
  return uses


def _bias_after(proto, uses: dict, values: dict, absorbed: dict, width: int):
  """The constant vector that is added to a node's output next: see `Node`."""
  name = proto.output[0]
  users = uses.get(name, [])
  if len(users) != 1 or users[0] is None or users[0].op_type != "Add":
    return None
  other = [given for given in users[0].input if given != name]
  bias = values.get(other[0]) if len(other) == 1 else None
  if isinstance(bias, Flow) or np.shape(bias) != (width,):
    return None
  absorbed[id(users[0])] = name
  return bias
