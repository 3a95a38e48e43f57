"""Small ONNX networks for tests, and what onnxruntime says of them."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip(
    "onnxruntime", reason="the package onnxruntime is not installed"
)
helper = onnx.helper


def node(kind, inputs, outputs=("y",), **attributes):
  """A node; inputs and outputs are lists of names, or one name."""
  aslist = lambda names: [names] if isinstance(names, str) else list(names)
  return helper.make_node(kind, aslist(inputs), aslist(outputs), **attributes)


def model(nodes, shape, arrays=None, opset=17, output="y", kind="float32"):
  """A model of one input "x" of that shape, of one output, with constants."""
  of_type = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
  outputs = [output] if isinstance(output, str) else output
  graph = helper.make_graph(
      nodes, "test", [helper.make_tensor_value_info("x", of_type, shape)],
      [onnx.ValueInfoProto(name=name) for name in outputs],
      [
          onnx.numpy_helper.from_array(np.asarray(array), name)
          for name, array in (arrays or {}).items()
      ],
  )
  for value in graph.output:
    value.type.tensor_type.elem_type = of_type
  return helper.make_model(
      graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
  )


def run(model, inputs):
  """onnxruntime's first output [N, n], of one example at a time.

  Args:
    model: to be run.
    inputs: [N, ...], each of which is reshaped to the file's input.
  """
  session = runtime.InferenceSession(
      model if isinstance(model, str) else model.SerializeToString(),
      providers=["CPUExecutionProvider"],
  )
  given = session.get_inputs()[0]
  shape = [s if isinstance(s, int) else 1 for s in given.shape]
  results = [
      session.run(None, {given.name: x.reshape(shape)})[0] for x in inputs
  ]
  return np.stack(results).reshape(len(inputs), -1)
