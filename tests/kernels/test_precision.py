"""One strong type for what meets, and the allowance of the narrowest."""

import itertools

import elements
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.verification.certification_input import certified_params
from diffai_jax.domains import Dense, Diagonal, HybridZonotope
from diffai_jax.kernels import precision

# XLA's optimiser may change what is computed in which type.
pytestmark = pytest.mark.optimized

LABELS = jnp.array([0])


def attained(center, radius, kernel) -> float:
  """The largest z_1 - z_0 over a box, in exact arithmetic (nearly)."""
  slopes = np.asarray(kernel, np.longdouble)[:, 1] - kernel[:, 0]
  return float((center @ slopes + np.sum(np.abs(slopes) * radius))[0])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["number", "weak", "float32", "numpy", "whole"])
@pytest.mark.parametrize("maker", [domains.box, domains.correlated_box])
def test_a_radius_has_the_center_s_type(kind, maker):
  """Beside a float64 center, times a float32 kernel."""
  rng = np.random.default_rng(0)
  center = rng.normal(size=(1, 300))
  kernel = jnp.asarray(rng.normal(size=(300, 2)), jnp.float32)
  radius = {
      "number": 0.1, "weak": jnp.asarray(0.1), "float32": jnp.float32(0.1),
      "numpy": np.full((1, 300), 0.1, np.float32), "whole": np.array(1),
  }[kind]
  element = maker(jnp.asarray(center), radius)
  types = {leaf.dtype for leaf in jax.tree.leaves(element)}
  assert types == {np.dtype(np.float64)}
  assert not any(leaf.weak_type for leaf in jax.tree.leaves(element))
  image = transformers.dense(element, kernel, jnp.zeros(2, jnp.float32))
  bound = float(losses.margins(image, LABELS)[0, 1])
  assert bound >= attained(center, np.float64(radius), np.float64(kernel))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("radius", [0.1, 0.3, 1e-40])
def test_a_radius_is_rounded_up(radius):
  """A number in between two of float32, traced or not, and a subnormal one."""
  center = jnp.zeros((1, 1), jnp.float32)
  for element in (
      domains.box(center, radius), jax.jit(domains.box)(center, radius),
      domains.box(center, np.float64(radius)),
      domains.box(center, jnp.asarray(radius)),
  ):
    assert element.uncorrelated.dtype == jnp.float32
    assert float(element.uncorrelated[0, 0]) >= radius


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("types", list(itertools.product(
    [np.float32, np.float64], repeat=4
))[1:-1:3])
def test_parts_of_different_types_are_covered(types):
  """Elements built by hand, through every kind of transformer."""
  rng = np.random.default_rng(1)
  own, of_radius, of_block, of_kernel = types
  draw = lambda *shape: rng.normal(size=shape)
  element = HybridZonotope(
      jnp.asarray(draw(2, 6), own),
      jnp.asarray(np.abs(draw(2, 6)), of_radius),
      {"a": Dense(jnp.asarray(draw(2, 3, 6), of_block)),
       "b": Diagonal(jnp.asarray(draw(2, 6), of_block))},
      relu="deepz",
  )
  kernel, bias = draw(6, 6).astype(of_kernel), draw(6).astype(of_kernel)

  def network(x):
    x = transformers.dense(x, kernel, bias)
    return transformers.add(transformers.tanh(transformers.relu(x)), x)

  result = network(element)
  for leaf in jax.tree.leaves(result):
    assert leaf.dtype == jnp.result_type(*types)
  low, high = domains.lower(result), domains.upper(result)
  for corner in (True, False) * 10:
    noise = elements.draw_noise(rng, element, corner)
    x = elements.point_of(element, noise)
    for dtype in {np.float64, np.result_type(*types)}:
      value = np.asarray(network(jnp.asarray(x, dtype)))
      assert np.all(low <= value) and np.all(value <= high)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("size", [8, 784])
def test_narrow_kernels_are_allowed_for(dtype, size):
  """A run in the kernel's own arithmetic stays inside, or nothing is said."""
  rng = np.random.default_rng(2)
  kernel = jnp.asarray(rng.normal(size=(size, 3)), dtype)
  center = jnp.asarray(rng.normal(size=(5, size)), jnp.float32)
  result = transformers.dense(
      domains.correlated_box(center, 0.0), kernel, jnp.zeros(3)
  )
  narrow = np.float64((center.astype(dtype) @ kernel).astype(jnp.float32))
  exact = np.float64(center) @ np.float64(kernel.astype(jnp.float32))
  low, high = domains.lower(result), domains.upper(result)
  for value in (narrow, exact, transformers.dense(center, kernel, jnp.zeros(3))):
    assert np.all(np.isnan(low) | (low <= value) & (value <= high))
  assert np.all(np.isfinite(low)) == (size == 8)
  held = certified_params({"kernel": kernel})["kernel"]
  assert held.dtype == jnp.float32
  np.testing.assert_array_equal(held.astype(dtype), kernel)


def test_products_ask_for_the_highest_precision_but_in_training():
  element = domains.correlated_box(jnp.ones((1, 4, 4, 2)), 0.1)

  def network(x):
    x = transformers.conv(x, jnp.ones((3, 3, 2, 2)), jnp.zeros(2))
    x = transformers.conv_transpose(x, jnp.ones((3, 3, 2, 2)), jnp.zeros(2))
    return transformers.dense(
        transformers.flatten(x), jnp.ones((32, 2)), jnp.zeros(2)
    )

  def asked(x):
    """What the products of a freshly traced network ask for."""
    program = jax.make_jaxpr(lambda x: jax.jit(network)(x))(x).jaxpr
    found, programs = set(), [program]
    while programs:
      for operation in programs.pop().eqns:
        name = operation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
          found.add(operation.params["precision"])
        programs += [
            getattr(inner, "jaxpr", inner)
            for inner in operation.params.values()
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr")
        ]
    return found

  highest = (lax.Precision.HIGHEST,) * 2
  for value in (element, element.center):
    assert asked(value) == {highest}
    with precision.for_losses(True):
      assert None in asked(value)
    assert asked(value) == {highest}  # No trace of the other is taken.


def test_only_training_multiplies_in_bfloat16():
  kernel = jnp.full((300, 2), 1 / 3, jnp.bfloat16)
  x = jnp.full((1, 300), 1 / 3)
  exact = transformers.dense(x, kernel.astype(jnp.float32), jnp.zeros(2))
  run = jax.jit(lambda x: transformers.dense(x, kernel, jnp.zeros(2)))
  np.testing.assert_allclose(run(x), exact, rtol=1e-6)
  with precision.for_losses(True):
    rounded = run(x)
    assert np.isfinite(domains.upper(run(domains.box(x, 0.1)))).all()
  assert np.all(np.abs(rounded - exact) > 1e-6 * np.abs(exact))
  np.testing.assert_allclose(run(x), exact, rtol=1e-6)
