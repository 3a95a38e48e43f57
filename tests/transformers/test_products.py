"""Maximum, minimum and product of two bounded values that share symbols."""

import dataclasses

import elements
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Diagonal, HybridZonotope, Product

SHAPE = (4, 5, 2)
FUNCTIONS = {
    "maximum": (transformers.maximum, np.maximum),
    "minimum": (transformers.minimum, np.minimum),
    "multiply": (transformers.multiply, np.multiply),
}


def pair_of(rng, kind, rule, spread):
  """Two elements that share all symbols but those of a block of each."""
  x, y = (
      elements.random_element(rng, SHAPE, kind, spread=spread) for _ in range(2)
  )
  if kind == "several":  # Windows at the same places.
    block = dataclasses.replace(
        x.correlated["c"], coefficients=-x.correlated["c"].coefficients
    )
    y = dataclasses.replace(y, correlated=y.correlated | {"c": block})
  own = {"own": Diagonal(spread * 0.1 * np.ones((3, *SHAPE)))}
  y = dataclasses.replace(y, correlated=y.correlated | own)
  return [dataclasses.replace(value, relu=rule) for value in (x, y)]


def assert_sound(rng, x, y, result, concrete):
  one, other = (elements.draw_many(rng, value) for value in (x, y))
  # Uncorrelated error of both is independent.
  shared = other | {n: v for n, v in one.items() if n is not None}
  images = concrete(elements.points_of(x, one), elements.points_of(y, shared))
  elements.assert_covers_all(result, shared, images)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("rule", ["box", "switch", "deepz"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_covers_the_image_of_every_pair(name, rule):
  transform, concrete = FUNCTIONS[name]
  rng = np.random.default_rng(0)
  for spread in (1e-9, 0.1, 1.0, 10.0):
    for kind in ("several", "none"):
      x, y = pair_of(rng, kind, rule, spread)
      assert_sound(rng, x, y, transform(x, y), concrete)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pure_zonotopes(name):
  transform, concrete = FUNCTIONS[name]
  rng = np.random.default_rng(1)
  x, y = pair_of(rng, "several", "deepz", 0.5)
  x, y = (
      transformers.to_zonotope(value, f"own of {i}")
      for i, value in enumerate((x, y))
  )
  result = transform(x, y, symbol="new")
  assert result.uncorrelated is None and "new" in result.correlated
  assert_sound(rng, x, y, result, concrete)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rule", ["box", "deepz"])
def test_float32_covers_exact_and_float32_runs(name, rule):
  transform, concrete = FUNCTIONS[name]
  rng = np.random.default_rng(2)
  scale = 10.0 ** rng.uniform(-30, 15, (2, 1, 2000))
  x, y = (rng.normal(size=(2, 1, 2000)) * scale).astype(np.float32)
  y = np.where(rng.uniform(size=y.shape) < 0.3, x, y)

  @jax.jit
  def runs(x, y, radii):
    given = [
        dataclasses.replace(domains.correlated_box(v, r, "s"), relu=rule)
        for v, r in zip((x, y), radii)
    ]
    result = transform(*given)
    return domains.lower(result), domains.upper(result), transform(x, y)

  for share in (0.0, 1e-7, 1e-2, 2.0):
    radii = [np.float32(share) * np.abs(v) for v in (x, y)]
    low, high, run = map(np.float64, runs(x, y, radii))
    for _ in range(5):
      noise = rng.choice([-1, 1, rng.uniform(-1, 1)], x.shape)
      points = [np.float64(v) + np.float64(r) * noise
                for v, r in zip((x, y), radii)]
      exact = concrete(*points)
      assert np.all((low <= exact) & (exact <= high))
    assert np.all((low <= run) & (run <= high))


@pytest.mark.usefixtures("float64")
def test_what_is_shared_decides_the_maximum():
  """Bounds overlap, and one is the largest at every value of the symbols."""
  x = HybridZonotope(
      np.zeros((1, 3)), None, {"s": Diagonal(np.ones((1, 3)))}
  )
  y = dataclasses.replace(x, center=np.full((1, 3), 0.5))
  both = jax.jit(lambda *values: (
      transformers.maximum(*values), transformers.minimum(*values)
  ))
  for rule in ("box", "deepz"):
    one, other = (dataclasses.replace(v, relu=rule) for v in (x, y))
    for result, expected in zip(both(one, other), (y, x)):
      np.testing.assert_array_equal(result.center, expected.center)
      np.testing.assert_array_equal(result.uncorrelated, 0)
      np.testing.assert_array_equal(result.correlated["s"].coefficients, 1)


@pytest.mark.usefixtures("float64")
def test_products_keep_symbols_and_squares_are_squares():
  center = np.full((1, 3), 2.0)

  @jax.jit
  def products(center):
    x = dataclasses.replace(
        domains.correlated_box(center, 0.1, "s"), relu="deepz"
    )
    return (
        transformers.multiply(x, dataclasses.replace(x)),
        transformers.multiply(x, x), transformers.multiply(x, center),
    )

  product, square, array = products(center)
  np.testing.assert_allclose(product.correlated["s"].coefficients, 0.4)
  np.testing.assert_allclose(product.uncorrelated, 0.01)
  np.testing.assert_allclose(square.uncorrelated, 0.005)
  np.testing.assert_allclose(array.correlated["s"].coefficients, 0.2)
  assert np.all(array.uncorrelated < 1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_boxes_are_intervals(name):
  """Never wider than interval arithmetic."""
  transform, concrete = FUNCTIONS[name]
  rng = np.random.default_rng(3)
  x, y = (domains.box(rng.normal(size=(2, 50)), rng.uniform(size=(2, 50)))
          for _ in range(2))
  bounds = lambda x: (domains.lower(x), domains.upper(x))
  of_x, of_y, (low, high) = jax.tree.map(np.asarray, jax.jit(
      lambda x, y: (bounds(x), bounds(y), bounds(transform(x, y)))
  )(x, y))
  ends = [concrete(a, b) for a in of_x for b in of_y]
  np.testing.assert_allclose(low, np.min(ends, 0), atol=1e-12)
  np.testing.assert_allclose(high, np.max(ends, 0), atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_products_and_what_is_refused(name):
  transform, concrete = FUNCTIONS[name]
  rng = np.random.default_rng(4)
  x, y = rng.normal(size=(2, 2, 3)).astype(np.float32)
  np.testing.assert_array_equal(transform(x, y), concrete(x, y))
  both = transform(Product((x, domains.point(x))), Product((y, y)))
  np.testing.assert_array_equal(both[0], concrete(x, y))
  np.testing.assert_allclose(both[1].center, concrete(x, y), rtol=1e-6)
  assert np.all(domains.radius(both[1]) < 1e-5)
  with pytest.raises(ValueError, match=f"{name} met the shapes"):
    transform(x, y[:, :2])
  with pytest.raises(ValueError, match="different rules"):
    transform(domains.box(x, x * 0), dataclasses.replace(
        domains.box(y, y * 0), relu="deepz"))
  with pytest.raises(TypeError, match=f"{name} has no rule for str"):
    transform(x, "y")


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rule", ["box", "deepz"])
def test_gradients_are_finite(name, rule):
  transform, _ = FUNCTIONS[name]
  x = np.float32([[0.0, 1.0, -1.0, 1e3, 0.0, 2.0]])
  y = np.float32([[0.0, 1.0, 2.0, -1e3, 1e-30, 1.9]])

  def total(x, y, radius):
    given = [
        dataclasses.replace(domains.correlated_box(v, radius, "s"), relu=rule)
        for v in (x, y)
    ]
    result = transform(*given)
    return jnp.sum(domains.upper(result) - 2 * domains.lower(result))

  gradients = jax.jit(jax.grad(total, (0, 1, 2)))
  for radius in np.float32([0.0, 1e-6, 1.0]):
    for gradient in gradients(x, y, np.full_like(x, radius)):
      assert np.all(np.isfinite(gradient)), radius
