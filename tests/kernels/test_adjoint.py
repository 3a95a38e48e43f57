"""The adjoint of a convolution, and its gradients, against plain transposes."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.kernels.adjoint import adjoint_in_loops, convolution_adjoint


# With few channels and with many, loops have two forms.
@pytest.mark.parametrize("adjoint, channels", [
    (convolution_adjoint, 6), (adjoint_in_loops, 6), (adjoint_in_loops, 8),
])
@pytest.mark.parametrize("stride, padding, dilation, groups", [
    (1, 0, 1, 1), (2, 1, 1, 1), (2, ((0, 1), (1, 0)), 1, 1), (1, 2, 2, 2),
    ((1, 2), 1, 1, 1), (3, ((2, 0), (0, 1)), 1, 1),
])
def test_gradients_are_those_of_the_bilinear_map(
    stride, padding, dilation, groups, adjoint, channels
):
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  x, kernel = draw(3, 7, 6, channels), draw(3, 3, channels // groups, 4)
  pair = lambda n: (n, n) if isinstance(n, int) else n
  edges = [pair(edge) for edge in pair(padding)]

  def convolved(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, pair(stride), edges, rhs_dilation=pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )

  rows = draw(*jax.eval_shape(convolved, x, kernel).shape)
  geometry = stride, padding, dilation, groups

  @jax.jit
  def ours(rows, kernel, cotangent):
    found, transposed = jax.vjp(
        lambda r, k: adjoint(r, k, x.shape[1:], geometry),
        rows, kernel,
    )
    return found, transposed(cotangent)

  @jax.jit
  def expected(rows, kernel, cotangent):
    product = lambda x, k: jnp.vdot(rows, convolved(x, k))
    by_x = jax.grad(product)(jnp.zeros_like(x), kernel)
    by_kernel = jax.grad(product, 1)(cotangent, kernel)
    return by_x, (convolved(cotangent, kernel), by_kernel)

  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      ours(rows, kernel, x), expected(rows, kernel, x),
  )
