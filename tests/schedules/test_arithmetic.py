"""Arithmetic of schedules: values, bounds, text."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.schedules.arithmetic import Minus, Over, Plus, Times, combine
from diffai_jax.objectives import ObjectiveError, parse_value
from diffai_jax.schedules import Clip, Lin, Until, extent, value_at

TIMES = np.linspace(0, 60, 121)
ONE, TWO = Lin(1, 3, 20, 5), Until(30, -2, Lin(0.5, 4, 10))
LEAVES = (ONE, TWO, Lin(-1, 0, 50), 2, -0.75, 0, 1e-3)
KINDS = (Plus, Minus, Times, Over)
PYTHON = {
    Plus: operator.add, Minus: operator.sub, Times: operator.mul,
    Over: operator.truediv,
}


def one(t):
  return np.interp(t, [5, 25], [1, 3])


def two(t):
  return np.where(t < 30, -2, np.interp(t - 30, [0, 10], [0.5, 4]))


def values(schedule):
  return np.asarray(
      jax.vmap(lambda t: value_at(schedule, t))(jnp.asarray(TIMES))
  )


leaf_values = functools.cache(values)


def draw(rng, depth=0):
  """A random tree, with what Python makes of it at each of TIMES."""
  if depth > 3 or rng.random() < 0.25:
    leaf = LEAVES[rng.integers(len(LEAVES))]
    return leaf, leaf_values(leaf) + np.zeros_like(TIMES)
  (left, a), (right, b) = draw(rng, depth + 1), draw(rng, depth + 1)
  kind = KINDS[rng.integers(4)]
  if kind is Over:  # By something that is surely not 0.
    right, b = Clip(right, 0.5, 2), np.clip(b, 0.5, 2)
  return combine(kind, left, right), PYTHON[kind](a, b)


@pytest.mark.parametrize("text, expected", [
    ("0.5 * Lin(1, 3, 20, 5)", lambda t: 0.5 * one(t)),
    ("1 - Lin(1, 3, 20, 5)", lambda t: 1 - one(t)),
    ("-Lin(1, 3, 20, 5)", lambda t: -one(t)),
    ("+Lin(1, 3, 20, 5)", one),
    ("Lin(1,3,20,5) - (1 - Until(30, -2, Lin(0.5, 4, 10)))",
     lambda t: one(t) - (1 - two(t))),
    ("Lin(1,3,20,5) - 1 - Until(30, -2, Lin(0.5, 4, 10))",
     lambda t: one(t) - 1 - two(t)),
    ("1 / Lin(1, 3, 20, 5) / 2", lambda t: 1 / one(t) / 2),
    ("1 / (Lin(1, 3, 20, 5) / 2)", lambda t: 1 / (one(t) / 2)),
    ("2 * (Lin(1, 3, 20, 5) + 1) * 3", lambda t: 2 * (one(t) + 1) * 3),
])
def test_texts(text, expected, float64):
  """Operators bind as in mathematics."""
  np.testing.assert_allclose(
      values(parse_value(text)), expected(TIMES), rtol=0, atol=1e-12
  )


@pytest.mark.parametrize("kind", KINDS)
def test_values_at_each_epoch(kind, float64):
  """One at a time, and all of them at once."""
  expected = PYTHON[kind](two(TIMES), one(TIMES))
  schedule = kind(TWO, ONE)
  np.testing.assert_allclose([schedule(t) for t in TIMES], expected, atol=1e-12)
  assert schedule(3).shape == ()
  np.testing.assert_allclose(values(schedule), expected, atol=1e-12)


@pytest.mark.parametrize("left, right, low, high", [
    (ONE, TWO, (-1, -3, -6, -1.5), (7, 5, 12, 6)),
    (-2, ONE, (-1, -5, -6, -2), (1, -3, -2, -2 / 3)),
])
def test_extent_is_no_wider_than_its_operands_ends(left, right, low, high):
  for kind, lowest, highest in zip(KINDS, low, high):
    if kind is Over and right is TWO:
      right = Clip(right, 0.5, 4)
      lowest, highest = 0.25, 6
    np.testing.assert_allclose(extent(kind(left, right)), (lowest, highest))


@pytest.mark.parametrize("kind", KINDS)
def test_two_numbers_are_one(kind):
  """Folded as Python does; anything with a schedule stays a term."""
  for left, right in ((3, 4), (-0.5, 8), (1e-3, -7), (0, 2.5)):
    found = combine(kind, left, right)
    assert type(found) in (int, float) and found == PYTHON[kind](left, right)
  for left, right in ((ONE, 2), (2, ONE), (ONE, ONE)):
    assert combine(kind, left, right) == kind(left, right)


@pytest.mark.parametrize("kind, left, right", [
    (Times, 1e200, 1e200), (Times, 10**400, 1.5), (Plus, 1e308, 1e308),
    (Minus, -1e308, 1e308), (Over, 1e200, 1e-200), (Over, 10**400, 3),
])
def test_an_overflow_is_refused(kind, left, right):
  with pytest.raises(ValueError, match="too large") as caught:
    combine(kind, left, right)
  assert "\n" not in str(caught.value)


def test_equal_terms_have_equal_hashes_and_kinds_differ():
  terms = [kind(*pair) for kind in KINDS for pair in ((ONE, 2), (2, ONE))]
  again = [kind(*pair) for kind in KINDS for pair in ((ONE, 2.0), (2.0, ONE))]
  assert terms == again and list(map(hash, terms)) == list(map(hash, again))
  assert len(set(terms)) == len(terms)


@pytest.mark.parametrize("text, value", [
    ("8/255", 8 / 255), ("1 - 0.25", 0.75), ("-(-3)", 3), ("2*3 - 4/8", 5.5),
    (0.25, 0.25), (7, 7),
])
def test_numbers_combine_to_a_number(text, value):
  found = parse_value(text)
  assert not callable(found) and found == value


def test_random_trees(float64):
  """Values, bounds on them, and text that reads back."""
  rng = np.random.default_rng(0)
  for _ in range(150):
    schedule, expected = draw(rng)
    np.testing.assert_allclose(values(schedule), expected, atol=1e-9)
    low, high = extent(schedule)
    assert low - 1e-9 <= expected.min() and expected.max() <= high + 1e-9
    if callable(schedule):
      again = parse_value(str(schedule))
      assert again == schedule and hash(again) == hash(schedule)
      assert str(again) == str(schedule)


def draw_text(rng, depth=0):
  """A random tree of operators, with any of them on either side."""
  if depth > 4 or rng.random() < 0.2:
    return LEAVES[rng.integers(len(LEAVES))]
  left, right = draw_text(rng, depth + 1), draw_text(rng, depth + 1)
  kind = KINDS[rng.integers(4)]
  low, high = extent(right)
  if kind is Over and low <= 0 <= high:
    kind = Minus
  return combine(kind, left, right)


def parentheses(text):
  """Where each pair that groups, and calls nothing, opens and closes."""
  opened, pairs = [], []
  for place, character in enumerate(text):
    if character == "(":
      opened.append(place)
    if character == ")":
      start = opened.pop()
      if start == 0 or not text[start - 1].isalnum():
        pairs.append((start, place))
  return pairs


def test_random_texts_have_all_parentheses_that_are_needed_and_no_others():
  """They read back; with any pair left out, they are something else."""
  rng = np.random.default_rng(1)
  seen = 0
  for _ in range(200):
    schedule = draw_text(rng)
    if not callable(schedule):
      continue
    text = str(schedule)
    assert parse_value(text) == schedule
    for start, end in parentheses(text):
      seen += 1
      without = text[:start] + text[start + 1 : end] + text[end + 1 :]
      try:
        assert parse_value(without) != schedule, text
      except ObjectiveError:
        pass  # Without them, something is divided by 0.
  assert seen > 200


@pytest.mark.parametrize("schedule, text", [
    (Minus(1, Minus(ONE, 2)), "1 - (Lin(1, 3, 20, 5) - 2)"),
    (Minus(Minus(1, ONE), 2), "1 - Lin(1, 3, 20, 5) - 2"),
    (Times(Plus(1, ONE), 2), "(1 + Lin(1, 3, 20, 5)) * 2"),
    (Plus(Times(2, ONE), 1), "2 * Lin(1, 3, 20, 5) + 1"),
    (Over(1, Times(ONE, 2)), "1 / (Lin(1, 3, 20, 5) * 2)"),
    (Minus(ONE, -1), "Lin(1, 3, 20, 5) - -1"),
])
def test_only_the_parentheses_that_are_needed(schedule, text):
  assert str(schedule) == text
  assert parse_value(text) == schedule


def test_jit_compiles_once(float64):
  traces = []
  schedule = parse_value("1 - 0.5 * Lin(1, 3, 20, 5) / Lin(2, 1, 9)")

  @jax.jit
  def value(t):
    traces.append(t)
    return schedule(t)

  found = [value(jnp.asarray(t)) for t in TIMES]
  np.testing.assert_allclose(found, values(schedule), atol=1e-12)
  assert len(traces) == 1


@pytest.mark.parametrize("left, right", [(1, 0), (ONE, 0), (1, TWO), (1, 0.0)])
def test_division_by_0_is_refused(left, right):
  with pytest.raises(ValueError, match="division by 0") as caught:
    combine(Over, left, right)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1e30", "1e20*1e20", "Box", "Point()", "1,2",
                                  "", "not 1", "Lin(0,1,5)*1e29*1e29"])
def test_what_is_no_value_is_refused(text):
  with pytest.raises(ObjectiveError):
    parse_value(text)


@pytest.mark.parametrize("text, expected", [
    ("3000000000 * Lin(0, 1, 5)", 3e9),
    ("2000000000 * Until(5, 1, 2)", 4e9),
    ("2000000000 * Staircase(2)", 4e9),
])
def test_whole_numbers_are_numbers_of_any_size(text, expected):
  """In 32 bits as well, where an int32 ends at 2.1e9."""
  np.testing.assert_allclose(parse_value(text)(7.0), expected, rtol=1e-6)
