"""Plain Flax networks, written as ONNX and read back."""

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
  expected = np.asarray(apply(x)).reshape(4, -1)
  size = 1e-5 * max(1, np.abs(expected).max())
  np.testing.assert_allclose(run(proto, x), expected, atol=5 * size, rtol=1e-4)
  graph = from_onnx(proto)
  for one in (graph, simplify(graph)):
    found = np.asarray(one(x)).reshape(4, -1)
    np.testing.assert_allclose(found, expected, atol=5 * size, rtol=1e-4)
