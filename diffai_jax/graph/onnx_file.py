"""ONNX files: opening them, their nodes, and what they compute of constants."""

from collections.abc import Callable, Sequence
import os
from typing import Any

import numpy as np

from diffai_jax.graph.onnx_values import Flow
from diffai_jax.types import UsageError, reason, shown

# A handler makes a node's outputs of it.
Handler = Callable[["Node"], Any]


def opened(source):
  """The model in a file, its functions inlined.

  Args:
    source: a path, the content of a file, or a model of the package onnx.

  Raises:
    UsageError: in one line, if it is none, or the package is missing.
  """
  onnx = _package()
  try:
    if isinstance(source, (str, os.PathLike)):
      model = onnx.load(os.fspath(source))
    elif isinstance(source, bytes):
      model = onnx.load_model_from_string(source)
    else:
      model = source
    if not isinstance(model, onnx.ModelProto):
      raise UsageError(
          f"{shown(source)} is no ONNX network; give a path, or a model of the"
          f" package onnx"
      )
    if model.functions:
      model = onnx.inliner.inline_local_functions(model)
  except OSError as error:
    raise UsageError(
        f"cannot read {_name(source)} ({error.strerror or reason(error)}); give"
        f" an ONNX file"
    ) from None
  except UsageError:
    raise
  except Exception as error:  # Protocol Buffers' and ONNX's own have no base.
    raise UsageError(
        f"{_name(source)} is no ONNX file, or is damaged ({reason(error)})"
    ) from None
  if not model.graph.output or not model.opset_import:
    raise UsageError(
        f"{_name(source)} is no ONNX file, or is damaged (it has no"
        f" {'outputs' if model.opset_import else 'operator set'})"
    )
  return model


def _name(source) -> str:
  if isinstance(source, (str, os.PathLike)):
    return shown(os.fspath(source))
  return "the model"


def _package():
  try:
    import onnx
    import onnx.inliner
    import onnx.reference
  except ImportError:
    raise UsageError(
        "reading ONNX files needs the package onnx; pip install diffai_jax[onnx]"
    ) from None
  return onnx


def constants(model) -> dict[str, np.ndarray]:
  """The arrays that a model has by name."""
  onnx = _package()
  if model.graph.sparse_initializer:
    raise UsageError("the ONNX file has sparse weights; export it with dense ones")
  return {
      tensor.name: onnx.numpy_helper.to_array(tensor)
      for tensor in model.graph.initializer
  }


def input_of(model, known: dict) -> tuple[str, tuple[int, ...]]:
  """Name and shape of the one input; a batch axis of any size is of size 1.

  Raises:
    UsageError: if there are more, or its shape or type is none of ours.
  """
  onnx = _package()
  inputs = [value for value in model.graph.input if value.name not in known]
  if len(inputs) != 1:
    raise UsageError(
        f"the ONNX network has the inputs"
        f" {shown([value.name for value in inputs])}; networks of one input are"
        f" supported"
    )
  value, = inputs
  tensor = value.type.tensor_type
  kinds = onnx.TensorProto
  if tensor.elem_type not in (
      kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16
  ):
    kind = kinds.DataType.Name(tensor.elem_type)
    raise UsageError(
        f"the ONNX network's input {shown(value.name)} is of type {kind}; expected"
        f" floats"
    )
  dims = [
      dim.dim_value if dim.WhichOneof("value") == "dim_value" else
      (dim.dim_param or "?") for dim in tensor.shape.dim
  ]
  shape = list(dims)
  if len(shape) > 1 and (not isinstance(shape[0], int) or shape[0] < 1):
    shape[0] = 1
  if not shape or any(not isinstance(s, int) or s < 1 for s in shape):
    raise UsageError(
        f"the ONNX network's input {shown(value.name)} is"
        f" [{', '.join(map(str, dims))}]; all sizes but the batch's must be known:"
        f" export it with an example's shape"
    )
  return value.name, tuple(shape)


class Node:
  """One operator of a file, with its inputs.

  Attributes:
    kind: of operator, such as "Conv".
    name: its own, or that of its first output.
    inputs: values and arrays; None for what is left out.
    outputs: names of what it makes.
    opset: version of the operators.
    dtype: what the network computes in.
    bias_after: of a width: the constant vector of that width which is added to the
      node's output, if nothing else is done with it; or None. Who asks adds it.
  """

  def __init__(self, proto, inputs: list, opset: int, dtype, bias_after):
    self.kind, self.outputs = proto.op_type, list(proto.output)
    self.name = proto.name or next(iter(proto.output), "")
    self.inputs, self.opset, self.dtype = inputs, opset, dtype
    self.bias_after = bias_after
    self._attributes = attributes(proto)

  def error(self, message: str) -> UsageError:
    return UsageError(f"ONNX's {self.kind} at {shown(self.name)}: {message}")

  def has(self, number: int) -> bool:
    return number < len(self.inputs) and self.inputs[number] is not None

  def flow(self, number: int = 0) -> Flow:
    """An input that depends on the network's."""
    found = self.inputs[number] if self.has(number) else None
    if not isinstance(found, Flow):
      raise self.error(
          f"its input {number} {'is constant' if self.has(number) else 'is missing'}"
          f"; expected one that is computed from the network's input"
      )
    return found

  def constant(self, number: int, default=None) -> np.ndarray:
    """An input that does not; `default` if it is left out."""
    if not self.has(number):
      return default
    if isinstance(self.inputs[number], Flow):
      raise self.error(
          f"its input {number} is computed from the network's input; supported"
          f" are constants"
      )
    return np.asarray(self.inputs[number])

  def integers(self, number: int, attribute: str, default=None):
    """Whole numbers that are an input or, in older files, an attribute."""
    if self.has(number):
      given = self.constant(number)
      return [int(value) for value in np.reshape(given, -1)]
    return self.attribute(attribute, default)

  def attribute(self, name: str, default=None):
    """Its attribute of that name."""
    return self._attributes.pop(name, default)

  def only(self, name: str, *supported):
    """An attribute that must be one of these; the first is the default.

    Raises:
      UsageError: if it is not.
    """
    found = self.attribute(name, supported[0])
    if found not in supported:
      raise self.error(
          f"{name} is {shown(found)}; supported are"
          f" {', '.join(map(str, supported))}"
      )
    return found

  def ignore(self, *names: str) -> None:
    """These attributes do not matter."""
    for name in names:
      self.attribute(name)

  def axis(self, given: int, rank: int) -> int:
    """An axis of a tensor as a number that is not negative."""
    if not -rank <= given < rank:
      raise self.error(f"axis {given} is none of a tensor of {rank} axes")
    return int(given) % rank

  def finish(self) -> None:
    """Raises UsageError if an attribute was not looked at."""
    for name, value in self._attributes.items():
      raise self.error(f"its attribute {name}={shown(value)} is not supported")


def attributes(proto) -> dict[str, Any]:
  """A node's attributes as Python's values; texts are str."""
  onnx = _package()
  found = {}
  for attribute in proto.attribute:
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
      value = value.decode("utf-8", "replace")
    found[attribute.name] = value
  return found


def evaluated(proto, inputs: Sequence, opsets) -> list[np.ndarray]:
  """What a node makes of constants.

  Args:
    proto: the node.
    inputs: arrays by its inputs; None for what is left out.
    opsets: `model.opset_import`.
  """
  onnx = _package()
  helper = onnx.helper
  given = {
      name: np.asarray(array) for name, array in zip(proto.input, inputs)
      if name
  }
  graph = helper.make_graph(
      [proto], "node",
      [
          helper.make_tensor_value_info(
              name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
          ) for name, array in given.items()
      ],
      [onnx.ValueInfoProto(name=name) for name in proto.output if name],
  )
  model = helper.make_model(graph, opset_imports=opsets)
  with np.errstate(all="ignore"):
    results = iter(onnx.reference.ReferenceEvaluator(model).run(None, given))
  return [np.asarray(next(results)) if name else None for name in proto.output]
