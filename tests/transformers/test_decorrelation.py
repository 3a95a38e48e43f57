"""Abstract layers' transformers against the paper's formulas in NumPy."""

import elements
import jax
import numpy as np
import pytest

from diffai_jax import domains, transformers
from diffai_jax.domains import Dense, HybridZonotope

pytestmark = pytest.mark.usefixtures("float64")
SHAPE = (4, 5, 2)
SIZE = 40


def correlated(element, chosen):
  """The paper's section 3.1 for sets P of one example each: (B, new E)."""
  flat = np.asarray(element.uncorrelated).reshape(len(chosen), SIZE)
  rest, new = flat.copy(), []
  for b, variables in enumerate(chosen):
    rows = np.zeros((len(variables), SIZE))
    for t, i in enumerate(sorted(variables)):
      rows[t, i] = flat[b, i]
      rest[b, i] = 0
    new.append(rows)
  return rest, new


def assert_correlates(result, element, chosen):
  rest, new = correlated(element, chosen)
  np.testing.assert_array_equal(result.center, element.center)
  np.testing.assert_array_equal(
      np.asarray(result.uncorrelated).reshape(rest.shape), rest
  )
  found = elements.dense_numbers(result.correlated["new"])
  found = found.reshape(found.shape[:2] + (SIZE,))
  for b, rows in enumerate(new):
    used = found[b][np.abs(found[b]).sum(axis=1) > 0]
    np.testing.assert_array_equal(used, rows[np.abs(rows).sum(axis=1) > 0])
  for name, block in element.correlated.items():
    np.testing.assert_array_equal(
        result.correlated[name].coefficients, block.coefficients
    )


def compiled(correlate):
  """It in one program, in which known blocks are the same objects."""

  @jax.jit
  def program(x):
    result = correlate(x)
    for name, block in x.correlated.items():
      assert result.correlated[name] is block
    return result

  return program


@pytest.fixture
def element():
  return elements.random_element(np.random.default_rng(0), SHAPE, "several")


@pytest.mark.parametrize("k", [1, 3, 7, 39])
def test_correlate_fixed(element, k):
  chosen = [{i * SIZE // k for i in range(k)}] * 3
  result = compiled(
      lambda x: transformers.correlate_fixed(x, k, "new")
  )(element)
  assert_correlates(result, element, chosen)


@pytest.mark.parametrize("k", [1, 6, 39])
def test_correlate_max_is_per_example_and_ties_go_to_the_lowest(element, k):
  tied = HybridZonotope(np.round(element.center), np.full((3, *SHAPE), 0.5))
  correlate = compiled(lambda x: transformers.correlate_max(x, k, "new"))
  for one in (element, tied):
    bounds = np.asarray(domains.upper(one)).reshape(3, SIZE)
    chosen = [set(np.argsort(-row, kind="stable")[:k]) for row in bounds]
    assert_correlates(correlate(one), one, chosen)


@pytest.mark.parametrize("by_center", [False, True])
@pytest.mark.parametrize("window, stride", [
    ((2, 2, 1), (2, 2, 1)), ((3, 2, 1), (1, 1, 1)), ((2, 2, 2), (1, 2, 1)),
])
def test_correlate_max_pool(element, window, stride, by_center):
  f = np.asarray(element.center if by_center else element.uncorrelated)
  numbers = np.arange(SIZE).reshape(SHAPE)
  chosen = []
  for example in f:
    picked = set()
    ends = [n - w + 1 for n, w in zip(SHAPE, window)]
    for y in range(0, ends[0], stride[0]):
      for x in range(0, ends[1], stride[1]):
        for c in range(0, ends[2], stride[2]):
          here = (slice(y, y + window[0]), slice(x, x + window[1]),
                  slice(c, c + window[2]))
          picked.add(int(numbers[here].ravel()[example[here].argmax()]))
    chosen.append(picked)
  result = compiled(lambda x: transformers.correlate_max_pool(
      x, window, stride, "new", by_center=by_center
  ))(element)
  assert_correlates(result, element, chosen)


def test_correlate_random_draws_k_different_variables(element):

  @jax.jit
  def correlate(x):
    result = transformers.correlate_random(x, 6, jax.random.key(3), "new")
    return result, domains.radius(result), domains.radius(x)

  result, radius, before = correlate(element)
  own = elements.dense_numbers(result.correlated["new"]).reshape(3, 6, SIZE)
  places = {tuple(np.flatnonzero(np.asarray(result.uncorrelated)[b].ravel()
                                 != np.asarray(element.uncorrelated)[b].ravel()))
            for b in range(3)}
  assert own.shape[1] == 6 and all(len(p) <= 6 for p in places)
  np.testing.assert_allclose(radius, before, rtol=1e-12)


@pytest.mark.parametrize("correlate", [
    lambda x, k: transformers.correlate_fixed(x, k, "new"),
    lambda x, k: transformers.correlate_max(x, k, "new"),
    lambda x, k: transformers.correlate_random(x, k, jax.random.key(0), "new"),
])
def test_no_variable_and_more_than_all(element, correlate):
  nothing, everything = jax.jit(
      lambda x: (correlate(x, 0), correlate(x, 1000))
  )(element)
  assert set(nothing.correlated) == set(element.correlated)
  assert everything.uncorrelated is None


def all_symbols(element):
  names = sorted(element.correlated)
  blocks = [elements.dense_numbers(element.correlated[n]) for n in names]
  return np.concatenate([b.reshape(3, -1, SIZE) for b in blocks], axis=1)


@pytest.mark.parametrize("kind", ["dense", "diagonal", "local", "several"])
def test_decorrelate_min_is_the_formula(kind):
  element = elements.random_element(np.random.default_rng(1), SHAPE, kind)
  symbols = all_symbols(element)
  results = jax.jit(lambda x: [
      transformers.decorrelate_min(x, k, "kept") for k in (1, 3)
  ])(element)
  for k, result in zip((1, 3), results):
    found = elements.dense_numbers(result.correlated["kept"])
    assert set(result.correlated) == {"kept"} and found.shape[1] == k
    for b in range(3):
      sizes = np.abs(symbols[b]).sum(axis=1)
      kept = sorted(np.argsort(-sizes, kind="stable")[:k])
      np.testing.assert_array_equal(
          found[b].reshape(k, SIZE), symbols[b][kept]
      )
      dropped = np.delete(np.abs(symbols[b]), kept, axis=0).sum(axis=0)
      own = np.asarray(element.uncorrelated)[b].ravel() + dropped
      np.testing.assert_allclose(
          np.asarray(result.uncorrelated)[b].ravel(), own, rtol=1e-11
      )


def test_decorrelate_bounds(element):
  count = all_symbols(element).shape[1]
  for k in (count, count + 5):  # DiffAI v3 dropped everything here.
    same = transformers.decorrelate_min(element, k, "kept")
    assert set(same.correlated) == set(element.correlated)

  @jax.jit
  def drop_all(x):
    return domains.radius(x), (
        transformers.decorrelate_all(x),
        transformers.decorrelate_min(x, 0, "kept"),
        transformers.decorrelate_random(x, 0, jax.random.key(0), "kept"),
    )

  radius, dropped = drop_all(element)
  for none in dropped:
    assert not none.correlated
    np.testing.assert_allclose(none.uncorrelated, radius, rtol=1e-12)


@pytest.mark.parametrize("decorrelate", [
    lambda x: transformers.decorrelate_all(x),
    lambda x: transformers.decorrelate_min(x, 4, "kept"),
    lambda x: transformers.decorrelate_random(x, 4, jax.random.key(1), "kept"),
])
@pytest.mark.parametrize("kind", ["dense", "diagonal", "local", "several"])
def test_decorrelation_covers_every_point(kind, decorrelate):
  rng = np.random.default_rng(2)
  element = elements.random_element(rng, SHAPE, kind)
  result = jax.jit(decorrelate)(element)
  elements.assert_images_covered(rng, element, result, lambda x: x, 20)


def test_jit_equals_eager_whatever_the_order_of_names():
  block = lambda seed: Dense(np.random.default_rng(seed).normal(size=(2, 3, 5)))
  element = HybridZonotope(
      np.zeros((2, 5)), np.ones((2, 5)), {"z": block(0), "a": block(1)}
  )
  decorrelate = lambda e: transformers.decorrelate_min(e, 2, "kept")
  for one, other in zip(jax.tree.leaves(decorrelate(element)),
                        jax.tree.leaves(jax.jit(decorrelate)(element))):
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_both_domains(element):

  @jax.jit
  def convert(x):
    pure = transformers.to_zonotope(x, "new", relu="deepz")
    return pure, transformers.to_hybrid(pure)

  pure, hybrid = convert(element)
  assert pure.zonotope and pure.uncorrelated is None and pure.relu == "deepz"
  assert not hybrid.zonotope and hybrid.relu == "deepz"
  relu = jax.jit(transformers.relu, static_argnames="symbol")
  result = relu(pure, symbol="fresh")
  assert result.uncorrelated is None and "fresh" in result.correlated
  with pytest.raises(ValueError, match="already has noise symbols named"):
    transformers.relu(pure, symbol="new")
  assert len(relu(pure).correlated) == len(result.correlated)


@pytest.mark.parametrize("decorrelate", [
    lambda x, name: transformers.decorrelate_min(x, 1, name),
    lambda x, name: transformers.decorrelate_random(
        x, 1, jax.random.key(0), name
    ),
])
def test_a_known_name_is_refused(decorrelate):
  """What is kept under a family's name would be taken for that family."""
  element = elements.random_element(np.random.default_rng(0), (4,), "several")
  with pytest.raises(ValueError, match="already has noise symbols named 'a'"):
    decorrelate(element, "a")


def test_equal_upper_bounds_tie_though_they_round_apart():
  """Exactly 1 both; of outward rounded bounds the second would be larger."""
  element = HybridZonotope(
      np.array([[0.75, -1.0]]), np.array([[0.25, 2.0]])
  )
  picked = jax.jit(
      lambda x: transformers.correlate_max(x, 1, "s").uncorrelated
  )(element)
  np.testing.assert_array_equal(picked, [[0, 2]])
