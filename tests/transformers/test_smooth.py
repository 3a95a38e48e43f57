"""Smooth activations: sound at every value of the symbols, in each precision."""

import dataclasses
import functools

import elements
from elementwise import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffai_jax import domains, transformers
from diffai_jax.domains import Dense, HybridZonotope, Product

SHAPE = (4, 5, 2)
SELU = 1.0507009873554805, 1.6732632423543772


def numpy_selu(x):
  scale, alpha = SELU
  return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


FUNCTIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": numpy_selu,
    "softplus": lambda x: np.logaddexp(x, 0),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "gelu": lambda x: x * special.ndtr(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("rule", ["box", "switch", "smooth", "deepz"])
@pytest.mark.parametrize("spread", [1e-9, 1.0, 40.0])
def test_covers_the_image_of_every_point(name, rule, spread):
  rng = np.random.default_rng(0)
  for kind in elements.KINDS:
    element = elements.random_element(rng, SHAPE, kind, spread=spread)
    element = dataclasses.replace(element, relu=rule)
    result = getattr(transformers, name)(element)
    elements.assert_images_covered(rng, element, result, FUNCTIONS[name])


@pytest.mark.parametrize("rule", ["box", "deepz"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_covers_exact_and_float32_runs(name, rule):
  """Also far out, where values underflow, saturate or cancel."""
  rng = np.random.default_rng(1)
  center = np.concatenate([
      rng.uniform(-100, 100, 4000), rng.uniform(-3, 3, 4000),
      rng.normal(size=2000) * 10.0 ** rng.uniform(-30, -1, 2000),
  ]).astype(np.float32)[None]
  run = compiled(getattr(transformers, name))
  for radius in (0.0, 1e-9, 1e-3, 1.0, 30.0):
    value, bounds = run(center, np.float32(radius))
    low, high = np.float64(bounds[rule])
    for _ in range(5):
      x = center + np.float32(radius) * rng.uniform(-1, 1, center.shape)
      x = np.clip(x, np.float64(center) - np.float32(radius),
                  np.float64(center) + np.float32(radius))
      exact = FUNCTIONS[name](x)
      assert np.all(low <= exact) and np.all(exact <= high)
    assert np.all(low <= value) and np.all(value <= high)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "gelu"])
def test_linear_rule_keeps_symbols_and_is_tighter(name):
  """What later layers can cancel, at less fresh error than the interval."""
  center = np.linspace(-2, 2, 120).reshape(3, *SHAPE)
  element = domains.correlated_box(center, 0.1, "input")
  transform = getattr(transformers, name)
  kept = transform(dataclasses.replace(element, relu="deepz"))
  interval = transform(element)
  assert np.all(np.asarray(kept.correlated["input"].coefficients) > 0)
  assert np.all(
      kept.uncorrelated <= np.asarray(interval.uncorrelated) + 1e-12
  )
  assert np.all(
      domains.radius(kept) < 2.1 * np.asarray(domains.radius(interval))
  )


@pytest.mark.parametrize("rule", ["box", "deepz", "switch"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_finite(name, rule):
  center = np.array([0.0, 1.0, -1.0, 30.0, -30.0, -0.7517915])
  # One example of a batch for each radius.
  radii = np.float32([0.0, 1e-30, 1e-6, 1.0, 1e10])
  center = np.tile(np.resize(np.float32(center), SHAPE), (5, 1, 1, 1))
  radius = np.broadcast_to(radii[:, None, None, None], center.shape)

  def total(center, radius):
    element = dataclasses.replace(
        domains.correlated_box(center, radius, "s"), relu=rule
    )
    result = getattr(transformers, name)(element)
    return jnp.sum(domains.upper(result) - 2 * domains.lower(result))

  for gradient in jax.grad(total, (0, 1))(center, radius):
    finite = np.isfinite(gradient).all(axis=(1, 2, 3))
    assert np.all(finite), radii[~finite]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_products_and_kinds(name):
  transform = getattr(transformers, name)
  x = np.linspace(-5, 5, 200, dtype=np.float32).reshape(5, *SHAPE)
  np.testing.assert_allclose(transform(x), FUNCTIONS[name](x),
                             rtol=1e-5, atol=1e-6)
  product = transform(Product((x, domains.point(x))))
  np.testing.assert_allclose(product[1].center, product[0], atol=1e-4)
  with pytest.raises(TypeError, match="has no rule for list"):
    transform([1.0])
  pure = HybridZonotope(x, np.ones_like(x), zonotope=True)
  assert set(transform(pure, symbol="new").correlated) == {"new"}
  one, other = transform(pure), transform(pure)
  assert len(one.correlated) == 1
  assert not set(one.correlated) & set(other.correlated)


def test_negative_slopes_outside_0_and_1_are_refused():
  for slope in (-0.1, 1.5, float("nan")):
    with pytest.raises(ValueError, match="must be within 0 and 1"):
      transformers.leaky_relu(np.ones(3), slope)


@functools.cache
def slope_of_width(name):
  """The derivative of a result's radius by an interval's center."""

  def width(center, radius):
    element = HybridZonotope(
        center[None, None], None, {"a": Dense(radius[None, None, None])},
        relu="deepz",
    )
    return domains.radius(getattr(transformers, name)(element)).sum()

  return jax.jit(jax.grad(width))


@pytest.mark.parametrize("name", ["elu", "softplus"])
@pytest.mark.parametrize("radius", [1.0, 1e3, 1e6])
def test_wide_intervals_have_no_wide_gradients(name, radius):
  """The slope is chosen, not trained: its derivative times r would explode."""

  slope = slope_of_width(name)(np.float32(-0.5), np.float32(radius))
  assert abs(float(slope)) < 3


def test_gelu_of_huge_numbers_is_finite():
  bound = jax.jit(lambda x: domains.upper(transformers.gelu(domains.box(x, 0))))
  assert np.isfinite(bound(np.float32([[1e36]]))).all()


def float32_formulae() -> dict:
  """What libraries compute, by the names of the functions."""
  one = np.float32(1)
  alpha, scale = np.float32(1.6732632423543772), np.float32(1.0507009873554805)
  return {
      "sigmoid": [
          lambda x: one / (one + np.exp(-x)),
          lambda x: (one + np.tanh(x / 2)) / 2,
      ],
      "tanh": [
          np.tanh,
          lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)),
          lambda x: 2 / (one + np.exp(-2 * x)) - one,
      ],
      "softplus": [
          lambda x: np.log(one + np.exp(x)),
          lambda x: np.logaddexp(x, np.float32(0)),
          lambda x: np.where(x > 20, x, np.log1p(np.exp(x))),
      ],
      "elu": [lambda x: np.where(x > 0, x, np.exp(x) - one)],
      "selu": [
          lambda x: scale * np.where(x > 0, x, alpha * (np.exp(x) - one))
      ],
      "gelu": [
          lambda x: x / 2 * (one + special.erf(x / np.sqrt(np.float32(2)))),
          lambda x: x * special.ndtr(x),
      ],
  }


@pytest.mark.parametrize("name", float32_formulae())
def test_float32_runs_of_other_libraries_stay_inside(name):
  """Formulae that cancel numbers near 1 are off by ulps of 1, not of f(x)."""
  rng = np.random.default_rng(0)
  x = rng.uniform(-1, 1, 20000) * 10.0 ** rng.uniform(-6, 1.9, 20000)
  x = x.astype(np.float32)[:, None]
  result = jax.jit(getattr(transformers, name))(domains.point(jnp.asarray(x)))
  low, high = (np.float64(end(result)) for end in (domains.lower, domains.upper))
  for formula in float32_formulae()[name]:
    with np.errstate(over="ignore", invalid="ignore"):
      value = formula(x)
    assert value.dtype == np.float32
    said = np.isfinite(value)  # Naive ones overflow, to ∞/∞ for one.
    assert np.all(((low <= value) & (value <= high))[said])
