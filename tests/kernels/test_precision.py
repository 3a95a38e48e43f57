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

LABELS = np.array([0])


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
  kernel = rng.normal(size=(300, 2)).astype(np.float32)
  radius = {
      "number": 0.1, "weak": jnp.asarray(0.1), "float32": jnp.float32(0.1),
      "numpy": np.full((1, 300), 0.1, np.float32), "whole": np.array(1),
  }[kind]

  @jax.jit
  def bounded(center, kernel):
    element = maker(center, radius)
    image = transformers.dense(element, kernel, np.zeros(2, np.float32))
    return element, losses.margins(image, LABELS)

  element, margins = bounded(center, kernel)
  types = {leaf.dtype for leaf in jax.tree.leaves(element)}
  assert types == {np.dtype(np.float64)}
  assert not any(leaf.weak_type for leaf in jax.tree.leaves(element))
  bound = float(np.asarray(margins)[0, 1])
  assert bound >= attained(center, np.float64(radius), np.float64(kernel))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("radius", [0.1, 0.3, 0.7, 1e-40, 2**24 + 1])
def test_a_radius_is_rounded_up(radius):
  """A number in between two of float32, traced or not, and a subnormal one."""
  center = np.zeros((1, 1), np.float32)
  for element in (
      domains.box(center, radius), jax.jit(domains.box)(center, radius),
      domains.box(center, np.float64(radius)),
      domains.box(center, jnp.asarray(radius)),
  ):
    assert element.uncorrelated.dtype == jnp.float32
    assert float(np.asarray(element.uncorrelated)[0, 0]) >= radius


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
      draw(2, 6).astype(own),
      np.abs(draw(2, 6)).astype(of_radius),
      {"a": Dense(draw(2, 3, 6).astype(of_block)),
       "b": Diagonal(draw(2, 6).astype(of_block))},
      relu="deepz",
  )
  kernel, bias = draw(6, 6).astype(of_kernel), draw(6).astype(of_kernel)

  def network(x):
    x = transformers.dense(x, kernel, bias)
    return transformers.add(transformers.tanh(transformers.relu(x)), x)

  @jax.jit
  def bounded(element):
    result = network(element)
    return result, domains.lower(result), domains.upper(result)

  result, low, high = bounded(element)
  for leaf in jax.tree.leaves(result):
    assert leaf.dtype == jnp.result_type(*types)
  run = jax.jit(network)
  for corner in (True, False) * 10:
    noise = elements.draw_noise(rng, element, corner)
    x = elements.point_of(element, noise)
    for dtype in {np.float64, np.result_type(*types)}:
      value = np.asarray(run(x.astype(dtype)))
      assert np.all(low <= value) and np.all(value <= high)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("size", [8, 784])
def test_narrow_kernels_are_allowed_for(dtype, size):
  """A run in the kernel's own arithmetic stays inside, or nothing is said."""
  rng = np.random.default_rng(2)
  kernel = rng.normal(size=(size, 3)).astype(dtype)
  center = rng.normal(size=(5, size)).astype(np.float32)

  @jax.jit
  def runs(center, kernel):
    """Bounds and a run."""
    dense = lambda x: transformers.dense(x, kernel, np.zeros(3, np.float32))
    result = dense(domains.correlated_box(center, 0.0, "s"))
    return domains.lower(result), domains.upper(result), dense(center)

  low, high, run = runs(center, kernel)
  # On its own: in one program XLA may leave out what rounds.
  narrow = jnp.matmul(center.astype(dtype), kernel)
  exact = np.float64(center) @ np.float64(kernel)
  for value in (np.float64(narrow), exact, run):
    assert np.all(np.isnan(low) | (low <= value) & (value <= high))
  assert np.all(np.isfinite(low)) == (size == 8)
  held = certified_params({"kernel": kernel})["kernel"]
  assert held.dtype == jnp.float32
  np.testing.assert_array_equal(held.astype(dtype), kernel)


def test_products_ask_for_the_highest_precision_but_in_training():
  element = domains.correlated_box(np.ones((1, 4, 4, 2), np.float32), 0.1)

  def network(x):
    kernel = np.ones((3, 3, 2, 2), np.float32)
    x = transformers.conv(x, kernel, np.zeros(2, np.float32))
    x = transformers.conv_transpose(x, kernel, np.zeros(2, np.float32))
    return transformers.dense(
        transformers.flatten(x), np.ones((32, 2), np.float32),
        np.zeros(2, np.float32),
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
  kernel = np.full((300, 2), 1 / 3, jnp.bfloat16)
  x = np.full((1, 300), 1 / 3, np.float32)
  bias = np.zeros(2, np.float32)
  exact = np.asarray(jax.jit(transformers.dense)(
      x, kernel.astype(np.float32), bias
  ))
  run = jax.jit(lambda x: transformers.dense(x, kernel, bias))
  bound = jax.jit(lambda x: domains.upper(run(domains.box(x, 0.1))))
  np.testing.assert_allclose(run(x), exact, rtol=1e-6)
  with precision.for_losses(True):
    rounded = np.asarray(run(x))
    assert np.isfinite(bound(x)).all()
  assert np.all(np.abs(rounded - exact) > 1e-6 * np.abs(exact))
  np.testing.assert_allclose(run(x), exact, rtol=1e-6)
