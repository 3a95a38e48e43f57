"""Curves, kinks and softmax: sound at every value of the symbols, and sharp."""

import dataclasses

import elements
from elementwise import compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffai_jax import domains, transformers
from diffai_jax.domains import HybridZonotope, Product

SHAPE = (4, 5, 2)
# Numbers that float32 holds.
LOW, HIGH = np.arange(-8, 2, dtype=np.float32).reshape(5, 2) / 8, 0.75


def gelu_tanh(x):
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# Transformer, concrete function, and what makes its domain of all numbers.
FUNCTIONS = {
    "silu": (transformers.silu, lambda x: x * special.expit(x), None),
    "gelu": (transformers.gelu, lambda x: x * special.ndtr(x), None),
    "gelu_tanh": (lambda x, **s: transformers.gelu(x, True, **s), gelu_tanh, None),
    "erf": (transformers.erf, special.erf, None),
    "exp": (transformers.exp, np.exp, None),
    "square": (transformers.square, np.square, None),
    "absolute": (transformers.absolute, np.abs, None),
    "clip": (lambda x, **s: transformers.clip(x, LOW, HIGH, **s),
             lambda x: np.clip(x, LOW, HIGH), None),
    "clip_below": (lambda x, **s: transformers.clip(x, LOW, None, **s),
                   lambda x: np.maximum(x, LOW), None),
    "clip_above": (lambda x, **s: transformers.clip(x, high=0.125, **s),
                   lambda x: np.minimum(x, 0.125), None),
    "log": (transformers.log, np.log, 1),
    "sqrt": (transformers.sqrt, np.sqrt, 1),
    "reciprocal": (transformers.reciprocal, lambda x: 1 / x, 1),
    "reciprocal_negative": (transformers.reciprocal, lambda x: 1 / x, -1),
    "softmax": (transformers.softmax,
                lambda x: special.softmax(x, axis=-1), None),
    "softmax_rows": (lambda x, **s: transformers.softmax(x, 0, **s),
                     lambda x: special.softmax(x, axis=1), None),
}
RULES = ("box", "switch", "smooth", "deepz")
EVERYWHERE = [name for name, row in FUNCTIONS.items() if row[2] is None]


def element_of(rng, sign, kind, rule, spread):
  element = elements.random_element(rng, SHAPE, kind, spread=spread)
  if sign is not None:  # As near to 0 as is allowed, of some.
    center = np.asarray(domains.radius(element)) * (
        1 + 10.0 ** rng.uniform(-9, 1, element.center.shape)
    ) + 1e-6
    element = dataclasses.replace(element, center=sign * center)
  return dataclasses.replace(element, relu=rule)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name, rule", [
    (name, rule) for name in FUNCTIONS for rule in RULES
    # Curves tell "box" from all others, kinks tell them apart.
    if rule in ("box", "deepz") or name.startswith(("absolute", "clip"))
])
def test_covers_the_image_of_every_point(name, rule):
  transform, concrete, sign = FUNCTIONS[name]
  rng = np.random.default_rng(0)
  for spread in (1e-9, 0.3, 1.0, 30.0):
    for kind in ("several", "none") if rule == "box" else ("several",):
      element = element_of(rng, sign, kind, rule, spread)
      result = transform(element)
      assert np.all(np.isfinite(domains.upper(result)))
      elements.assert_images_covered(rng, element, result, concrete)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pure_zonotopes_and_all_kinds_of_blocks(name):
  transform, concrete, sign = FUNCTIONS[name]
  rng = np.random.default_rng(1)
  for spread in (0.1, 0.5):
    element = element_of(rng, sign, "several", "deepz", spread)
    element = transformers.to_zonotope(element, "own")
    result = transform(element, symbol="new")
    assert result.uncorrelated is None
    assert set(result.correlated) == {*element.correlated, "new"}
    elements.assert_images_covered(rng, element, result, concrete, 8)


@pytest.mark.parametrize("rule", ["box", "deepz"])
@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n != "softmax_rows"])
def test_float32_covers_exact_and_float32_runs(name, rule):
  """Also far out, where values underflow, overflow, saturate or cancel."""
  _, concrete, sign = FUNCTIONS[name]
  rng = np.random.default_rng(2)
  center = np.concatenate([
      rng.uniform(-80, 80, 400), rng.uniform(-3, 3, 400),
      rng.normal(size=200) * 10.0 ** rng.uniform(-30, 10, 200),
  ]).astype(np.float32).reshape(-1, 5, 2)[None]
  if sign is not None:
    center = sign * np.maximum(np.abs(center), np.float32(1e-30))
  for spread in (0.0, 1e-7, 1e-2, 0.9):
    radius = np.float32(spread) * (
        np.ones_like(center) if sign is None else np.abs(center)
    )
    run, bounds = compiled(FUNCTIONS[name][0])(center, radius)
    run, (low, high) = np.float64(run), np.float64(bounds[rule])
    known = np.isfinite(low) & np.isfinite(high)
    assert known.mean() > 0.7
    for _ in range(5):
      noise = rng.choice([-1, 1, rng.uniform(-1, 1)], center.shape)
      with np.errstate(all="ignore"):
        exact = concrete(np.float64(center) + np.float64(radius) * noise)
      assert np.all(((low <= exact) & (exact <= high))[known])
    assert np.all(((low <= run) & (run <= high))[known])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [
    n for n in FUNCTIONS if not n.startswith("softmax")
])
def test_lines_are_sharper_than_intervals(name):
  """Fresh error of second order: a tenth of the radius, a hundredth of it."""
  transform, concrete, sign = FUNCTIONS[name]
  center = np.broadcast_to(np.linspace(0.9, 1.6, 10).reshape(5, 2), (3, *SHAPE))
  center = jnp.asarray(center * (sign or 1))
  fresh = []
  for radius in (1e-1, 1e-2):
    element = domains.correlated_box(center, radius, "input")
    kept = transform(dataclasses.replace(element, relu="deepz"))
    interval = transform(element)
    assert np.all(
        kept.uncorrelated <= np.asarray(interval.uncorrelated) + 1e-9
    )
    widest = 2.1 * np.asarray(domains.radius(interval)) + 1e-9
    assert np.all(domains.radius(kept) < widest)
    fresh.append(np.max(kept.uncorrelated))
  assert fresh[1] < fresh[0] / 50 or fresh[0] < 1e-9


@pytest.mark.parametrize("rule", ["box", "deepz"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_finite(name, rule):
  transform, _, sign = FUNCTIONS[name]
  center = np.array([0.0, 1.0, -1.0, 20.0, -20.0, -0.7517915, 0.75, 3, -3, 0.1])
  if sign is not None:
    center = sign * (np.abs(center) + 2e3)
  # One example of a batch for each radius.
  radii = np.float32([0.0, 1e-30, 1e-6, 1.0, 1.0 if name == "exp" else 1e3])
  center = np.tile(np.float32(center), (5, 4)).reshape(5, *SHAPE)
  radius = np.broadcast_to(radii[:, None, None, None], center.shape)

  def total(center, radius):
    element = dataclasses.replace(
        domains.correlated_box(center, radius, "s"), relu=rule
    )
    result = transform(element)
    return jnp.sum(domains.upper(result) - 2 * domains.lower(result))

  for gradient in jax.grad(total, (0, 1))(center, radius):
    finite = np.isfinite(gradient).all(axis=(1, 2, 3))
    assert np.all(finite), radii[~finite]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_products_and_points(name):
  transform, concrete, sign = FUNCTIONS[name]
  x = np.random.default_rng(3).normal(size=(5, *SHAPE)).astype(np.float32)
  x = x if sign is None else sign * (np.abs(x) + np.float32(0.01))
  product = transform(Product((jnp.asarray(x), domains.point(jnp.asarray(x)))))
  expected = concrete(np.float64(x))
  np.testing.assert_allclose(product[0], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(product[1].center, product[0], rtol=1e-4, atol=1e-5)
  assert np.all(domains.radius(product[1]) < 1e-4 * (1 + np.abs(expected)))


@pytest.mark.parametrize("name, center", [
    ("log", 0.5), ("sqrt", 0.5), ("reciprocal", 0.5), ("reciprocal", -0.5),
    ("log", -3.0), ("sqrt", -3.0),
])
def test_outside_of_the_domain(name, center):
  """Known bounds are refused, traced ones prove nothing."""
  transform = getattr(transformers, name)
  element = domains.box(jnp.array([[center, 3.0 * abs(center)]]), jnp.float32(1))
  with pytest.raises(ValueError, match=f"{name} wants"):
    transform(element)
  result = jax.jit(transform)(element)
  assert np.isnan(domains.upper(result)[0, 0])
  assert np.isnan(domains.lower(result)[0, 0])
  assert np.isfinite(domains.upper(result)[0, 1])


def test_limits_of_clip():
  x = domains.box(jnp.zeros((1, 2)), jnp.float32(1))
  assert transformers.clip(x) is x
  for value in (x, jnp.zeros((1, 2))):
    with pytest.raises(ValueError, match="lower limit of clip above the upper"):
      transformers.clip(value, 1.0, jnp.zeros(2))
  result = jax.jit(transformers.clip)(x, 1.0, jnp.zeros(2))
  assert np.all(np.isnan(domains.upper(result)))


@pytest.mark.usefixtures("float64")
def test_piecewise_lines_are_exact_on_each_piece():
  x = HybridZonotope(
      np.array([[-2.0, 0.2, 2.0]]), None,
      {"s": domains.Dense(np.full((1, 1, 3), 0.1))}, relu="deepz",
  )
  clipped, size = jax.jit(lambda x: (
      transformers.clip(x, -1.0, 1.0), transformers.absolute(x)
  ))(x)
  np.testing.assert_array_equal(clipped.center, [[-1.0, 0.2, 1.0]])
  np.testing.assert_array_equal(clipped.uncorrelated, 0)
  np.testing.assert_array_equal(
      clipped.correlated["s"].coefficients, [[[0, 0.1, 0]]]
  )
  np.testing.assert_array_equal(
      size.correlated["s"].coefficients, [[[-0.1, 0.1, 0.1]]]
  )
  assert np.all(size.uncorrelated < 1e-12)


@pytest.mark.usefixtures("float64")
def test_what_entries_share_leaves_softmax_alone():
  shared = HybridZonotope(
      np.array([[1.0, 2.0, 3.0]]), None,
      {"s": domains.Dense(np.full((1, 1, 3), 5.0))},
  )
  result, radius = jax.jit(lambda x: (
      transformers.softmax(x), domains.radius(transformers.softmax(x))
  ))(shared)
  np.testing.assert_allclose(
      result.center, special.softmax([[1.0, 2.0, 3.0]], axis=1)
  )
  assert np.all(radius < 1e-12)


@pytest.mark.usefixtures("float64")
def test_exponentials_stay_above_0():
  """So that what is divided by their sum has bounds."""
  center = np.linspace(-5, 5, 120).reshape(3, *SHAPE)
  for radius in (0.1, 1.0, 3.0):
    element = dataclasses.replace(
        domains.correlated_box(center, radius, "s"), relu="deepz"
    )
    assert np.all(domains.lower(transformers.exp(element)) > 0)


def test_unknown_kinds_are_refused_by_name():
  for name in ("exp", "absolute", "clip", "softmax", "gelu", "reciprocal"):
    with pytest.raises(TypeError, match=f"{name} has no rule for list"):
      getattr(transformers, name)([1.0])
