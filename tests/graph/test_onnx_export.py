"""Plain Flax networks, written as ONNX and read back."""

import jax
import numpy as np
import pytest

from diffai_jax.graph import from_jax, from_onnx, simplify
from tests import onnx_export, random_plain_networks
from tests.onnx_models import run


@pytest.mark.parametrize("seed", range(12))
def test_what_is_written_is_read(seed):
  """Flax, onnxruntime and the graph of the file agree."""
  network, variables, shape = random_plain_networks.draw(seed)
  apply = lambda x: network.apply(variables, x)
  try:
    proto = onnx_export.export(from_jax(apply, shape))
  except NotImplementedError as error:
    pytest.skip(f"no ONNX operator: {error}")
  x = np.random.default_rng(seed).normal(size=(4, *shape)).astype(np.float32)
  graph = from_onnx(proto)
  expected, *found = jax.jit(lambda x: [
      one(x).reshape(4, -1) for one in (apply, graph, simplify(graph))
  ])(x)
  size = 1e-5 * max(1, np.abs(expected).max())
  np.testing.assert_allclose(run(proto, x), expected, atol=5 * size, rtol=1e-4)
  for one in found:
    np.testing.assert_allclose(one, expected, atol=5 * size, rtol=1e-4)
