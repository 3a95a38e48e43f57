"""Schedules against NumPy formulas and the values of DiffAI v3."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax.objectives import parse_value
from diffai_jax.schedules import (
    Clip,
    Complement,
    Lin,
    Scale,
    Schedule,
    Smooth,
    Staircase,
    Until,
    extent,
    value_at,
)

DATA = pathlib.Path(__file__).parents[1] / "data" / "schedules.npz"

# The expressions of schedules.npz; MixLin is Scale of Lin, quant a staircase.
REFERENCE = {
    "Lin(0,0.031373,150,10)": Lin(0, 0.031373, 150, 10),
    "Lin(0,0.5,150,10)": Lin(0, 0.5, 150, 10),
    "Lin(0,1,150,10)": Lin(0, 1, 150, 10),
    "Lin(0.5,0,50,3)": Lin(0.5, 0, 50, 3),
    "Until(90,Lin(0,0.2,50,40),0)": Until(90, Lin(0, 0.2, 50, 40), 0),
    "Until(1,0,Lin(0.5,0,50,3))": Until(1, 0, Lin(0.5, 0, 50, 3)),
    "Until(24,Lin(0,0.1,20,4),Lin(0.1,0,50))": Until(
        24, Lin(0, 0.1, 20, 4), Lin(0.1, 0, 50)
    ),
    "Lin(0,1,20,4,quant=True)": Staircase(Lin(0, 1, 20, 4)),
    "Complement(Lin(0,0.5,150,10))": Complement(Lin(0, 0.5, 150, 10)),
    "MixLin(0,0.5,150,10)": Scale(Lin(0, 0.5, 150, 10)),
    "Clip(Lin(0,1,100,0),0.2,0.7)": Clip(Lin(0, 1, 100, 0), 0.2, 0.7),
}
NESTED = Until(5, Until(2, 0.25, Lin(0, 1, 4)), Until(10, Lin(1, 3, 6, 2), 7))

pytestmark = pytest.mark.usefixtures("float64")


def lin(a, b, m, n, t):
  """a until n, then a straight line to b at n + m, then b."""
  return np.interp(t, [n, n + m], [a, b])


def values_on_grid(value):
  """The values at 0, 0.25, ..., 300."""
  return jax.vmap(lambda t: value_at(value, t))(jnp.linspace(0, 300, 1201))


@pytest.mark.parametrize("text", REFERENCE)
def test_values_of_diffai(text):
  """Lin and Until are what the earlier implementation's schemes mean."""
  with np.load(DATA) as reference:
    times, expected = reference["time"], reference[text]
  actual = [REFERENCE[text](t) for t in times]
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_all_of_diffais_values_are_compared():
  with np.load(DATA) as reference:
    assert set(REFERENCE) == set(reference) - {"time"}


@pytest.mark.parametrize("a, b, m, n", [
    (0, 1, 150, 10),
    (0.5, 0, 50, 3),
    (1, 1.3, 0.5, 0.25),
    (-2, 7.5, 20, 0),
    (3, 3, 5, 5),
])
def test_lin(a, b, m, n):
  """Holds, then a straight line, then holds, at fractional epochs too."""
  times = np.concatenate([np.linspace(0, n + m + 20, 83), [n, n + m]])
  actual = [Lin(a, b, m, n)(t) for t in times]
  expected = [lin(a, b, m, n, t) for t in times]
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_lin_without_hold_begins_at_once():
  """Lin(a, b, m) has n = 0."""
  assert Lin(2, 4, 10) == Lin(2, 4, 10, 0)
  np.testing.assert_allclose(Lin(2, 4, 10)(2.5), 2.5, atol=1e-12)


@pytest.mark.parametrize("hold", [0, 3])
def test_lin_of_length_0_jumps(hold):
  """The start before `hold`, the end from `hold` on."""
  times = np.array([0.0, 1.0, 2.999, 3.0, 50.0])
  actual = [Lin(0.25, 0.75, 0, hold)(t) for t in times]
  np.testing.assert_array_equal(actual, np.where(times < hold, 0.25, 0.75))


@pytest.mark.parametrize("epoch", [0, 30, 160, 400])
def test_whole_epochs_may_be_integers(epoch):
  """The epoch may be an int, a NumPy scalar or an array: the same value."""
  expected = lin(0, 1, 150, 10, epoch)
  for given in (epoch, np.int32(epoch), np.float64(epoch), jnp.array(epoch)):
    actual = Lin(0, 1, 150, 10)(given)
    assert actual.shape == ()
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def test_until_switches_at_its_epoch():
  """s1 strictly before epoch m, s2 at m itself."""
  times = np.array([0.0, 6.999, 7.0, 7.001, 90.0])
  actual = [Until(7, 0.25, 0.75)(t) for t in times]
  np.testing.assert_array_equal(actual, np.where(times < 7, 0.25, 0.75))


def test_until_starts_the_second_clock_at_0():
  """s2 is given the epoch minus m, however deep Untils are nested."""

  def expected(t):
    if t < 5:
      return 0.25 if t < 2 else lin(0, 1, 4, 0, t - 2)
    t -= 5
    return lin(1, 3, 6, 2, t) if t < 10 else 7

  times = np.linspace(0, 30, 121)
  np.testing.assert_allclose(
      [NESTED(t) for t in times], [expected(t) for t in times], atol=1e-12
  )


@pytest.mark.parametrize("schedule", [
    Lin(0.1, 0.7, 13, 2), Lin(1, 2, 0, 3), NESTED, Until(3, 0, 1),
    Smooth(0.1, 0.7, 13, 2), Smooth(1, 2, 0, 3), Complement(Lin(0, 1, 9)),
    Scale(Lin(0, 0.8, 20, 1)), Clip(NESTED, Lin(0, 1, 9), 4), Staircase(NESTED),
], ids=str)
def test_jit_equals_eager_and_compiles_once(schedule):
  """Nothing recompiles as the epoch moves."""
  traces = []

  @jax.jit
  def value(epoch):
    traces.append(epoch)
    return schedule(epoch)

  times = np.linspace(0, 30, 31)
  compiled = [value(jnp.asarray(t)) for t in times]
  eager = [schedule(t) for t in times]
  assert len(traces) == 1
  np.testing.assert_allclose(compiled, eager, rtol=0, atol=1e-12)


def test_value_at_of_numbers_and_schedules():
  """A number is constant; both give scalars."""
  for epoch in (0.0, 12.5, 300.0):
    assert value_at(0.3, epoch) == 0.3
    assert value_at(2, epoch) == 2
    np.testing.assert_allclose(
        value_at(Lin(0, 1, 10, 5), epoch), lin(0, 1, 10, 5, epoch)
    )
    assert value_at(2, epoch).shape == ()


@pytest.mark.parametrize("value, low, high", [
    (0.5, 0.5, 0.5),
    (3, 3, 3),
    (Lin(0, 1, 150, 10), 0, 1),
    (Lin(0.5, -2, 50), -2, 0.5),
    (Until(100, Lin(0, 0.2, 50, 40), -1), -1, 0.2),
    (NESTED, 0, 7),
    (Smooth(0, 1, 150, 10), 0, 1),
    (Smooth(0.5, -2, 50), -2, 0.5),
    (Complement(Lin(0, 0.75, 50)), 0.25, 1),
    (Scale(Lin(0.2, 0.5, 50, 3)), 0.25, 1),
    (Clip(Lin(0, 1, 100), 0.25, 0.5), 0.25, 0.5),
    (Clip(Lin(0, 1, 100), Lin(0, 0.25, 10), 0.75), 0, 0.75),
    (Staircase(NESTED), 0, 7),
    (Clip(Lin(0, 0.5, 9), -1, 1), 0, 0.5),
    (Clip(0.5, 2, Lin(5, 3, 10)), 2, 2),
])
def test_extent_is_the_lowest_and_highest_value(value, low, high):
  """Compared with the values on a fine grid that reaches each end."""
  np.testing.assert_allclose(extent(value), (low, high), rtol=1e-15)
  values = values_on_grid(value)
  np.testing.assert_allclose([values.min(), values.max()], [low, high])


@pytest.mark.parametrize("value", [
    Until(20, Lin(0, 1, 30), Lin(1, 2, 500)),
    Until(0, 5, Lin(0, 1, 20)),
    Lin(0, 1, 10000),
])
def test_extent_bounds_what_is_not_reached(value):
  """No value lies outside, also where a schedule ends early."""
  low, high = extent(value)
  values = values_on_grid(value)
  assert low <= values.min() and values.max() <= high


@pytest.mark.parametrize("schedule", [
    Lin(0, 1, -1),
    Lin(0, 1, 1, -0.5),
    Until(-1, 0, 1),
])
def test_check_rejects_negative_epochs(schedule):
  """In one line."""
  with pytest.raises(ValueError, match="must not be below 0") as caught:
    schedule.check()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("schedule", [Lin(5, -5, 0, 0), Until(0, -1, 1)])
def test_check_accepts_zero_epochs_and_any_values(schedule):
  schedule.check()


@pytest.mark.parametrize("schedule, text", [
    (Lin(0, 1, 150, 10), "Lin(0, 1, 150, 10)"),
    (Lin(0.5, 0, 50, 0), "Lin(0.5, 0, 50)"),
    (
        Until(24, Lin(0, 0.1, 20, 4), 1.0),
        "Until(24, Lin(0, 0.1, 20, 4), 1)",
    ),
    (Smooth(0, 0.5, 80, 0), "Smooth(0, 0.5, 80)"),
    (Complement(Lin(0, 0.5, 9)), "Complement(Lin(0, 0.5, 9))"),
    (Scale(0.5), "Scale(0.5)"),
    (Clip(Lin(0, 1, 9), 0.0, Smooth(1, 0.5, 9, 2)),
     "Clip(Lin(0, 1, 9), 0, Smooth(1, 0.5, 9, 2))"),
    (Staircase(Lin(0, 1, 20, 4)), "Staircase(Lin(0, 1, 20, 4))"),
])
def test_schedules_print_as_text(schedule, text):
  assert str(schedule) == text
  assert parse_value(text) == schedule


# Smooth, and what changes other schedules.


def smooth(a, b, m, n, t):
  """α·x⁴ up to a quarter of the way, a line with the same slope after it."""
  alpha = 1 / (0.25**4 + 4 * 0.25**3 * 0.75)
  x = np.clip((t - n) / m, 0, 1)
  line = alpha * 0.25**4 + alpha * 4 * 0.25**3 * (x - 0.25)
  return a + (b - a) * np.where(x < 0.25, alpha * x**4, line)


@pytest.mark.parametrize("a, b, m, n", [
    (2, 6, 80, 10), (0.7, 0.1, 20, 0), (-1, 1, 0.5, 3)
])
def test_smooth(a, b, m, n):
  """Holds, rises as a power and then as its tangent, and holds the end."""
  schedule = Smooth(a, b, m, n)
  times = np.concatenate([np.linspace(0, n + m + 20, 241), [n + m]])
  found = np.asarray([schedule(t) for t in times])
  np.testing.assert_allclose(
      found, smooth(a, b, m, n, times), rtol=0, atol=1e-12
  )
  assert np.all(found[times <= n] == a)
  np.testing.assert_allclose(found[times >= n + m], b, rtol=1e-15)
  assert np.all(np.diff(found[:-1]) * np.sign(b - a) >= 0)


def test_smooth_has_no_kink_where_the_line_begins():
  joint = 10 + 80 / 4
  schedule = Smooth(2, 6, 80, 10)
  below, above = joint - 1e-9, joint + 1e-9
  values = [schedule(t) for t in (below, joint, above)]
  np.testing.assert_allclose(values, values[1], atol=1e-8)
  slopes = jax.vmap(jax.grad(schedule))(jnp.array([below, above]))
  # The slope of α·x⁴ at a quarter, in value an epoch.
  slope = 4 * 0.25**3 / (0.25**4 + 4 * 0.25**3 * 0.75) * (6 - 2) / 80
  np.testing.assert_allclose(slopes, slope, rtol=1e-6)


def test_smooth_of_length_0_jumps():
  assert [float(Smooth(0, 1, 0, 3)(t)) for t in (0, 2.9, 3, 9)] == [0, 0, 1, 1]


@pytest.mark.parametrize("schedule, expected", [
    (Complement(Lin(0, 1, 20)), lambda t: 1 - lin(0, 1, 20, 0, t)),
    (Scale(Lin(0, 0.8, 20)),
     lambda t: lin(0, 0.8, 20, 0, t) / (1 - lin(0, 0.8, 20, 0, t))),
    (Clip(Lin(0, 1, 20), 0.2, Lin(0.9, 0.5, 10)),
     lambda t: np.clip(lin(0, 1, 20, 0, t), 0.2, lin(0.9, 0.5, 10, 0, t))),
    (Staircase(Lin(0, 1, 20, 3)), lambda t: lin(0, 1, 20, 3, np.floor(t))),
    (Staircase(0.25), lambda t: 0.25 + 0 * t),
], ids=lambda value: str(value) if isinstance(value, Schedule) else "")
def test_changed_schedules(schedule, expected):
  """Their formula at fractional epochs, jitted too, and bounds on all of it."""
  times = np.linspace(0, 40, 161)
  found = np.asarray([schedule(t) for t in times])
  np.testing.assert_allclose(found, expected(times), atol=1e-12)
  np.testing.assert_allclose(
      jax.jit(jax.vmap(schedule))(times), found, atol=1e-12
  )
  low, high = extent(schedule)
  assert low - 1e-12 <= found.min() and found.max() <= high + 1e-12


@pytest.mark.parametrize("schedule", [
    Smooth(0, 1, -1), Smooth(0, 1, 1, -1), Complement(Lin(0, 1.5, 5)),
    Complement(-0.1), Scale(1), Scale(Lin(-0.5, 0.5, 5)), Clip(0.5, 2, 1),
    Clip(0.5, Lin(0, 1, 5), 0.5),
], ids=str)
def test_check_rejects_what_has_no_meaning(schedule):
  with pytest.raises(ValueError) as caught:
    schedule.check()
  assert len(str(caught.value).splitlines()) == 1


def draw(rng, depth=0):
  """A random schedule, and the same as a NumPy function of many epochs."""
  # Epochs are quarters, so that both find the same side of a jump.
  a, b = rng.uniform(-2, 2, 2).round(2).tolist()
  n, m = (rng.integers(0, 60, 2) / 4).tolist()
  kind = rng.integers(3 if depth > 2 else 8)
  if kind == 0:
    return a, lambda t: np.full(t.shape, a)
  if kind == 1:
    return Lin(a, b, m + 1, n), lambda t: lin(a, b, m + 1, n, t)
  if kind == 2:
    return Smooth(a, b, m + 1, n), lambda t: smooth(a, b, m + 1, n, t)
  inner, f = draw(rng, depth + 1)
  if kind == 3:
    other, g = draw(rng, depth + 1)
    return Until(m, inner, other), lambda t: np.where(t < m, f(t), g(t - m))
  if kind == 4:
    return Staircase(inner), lambda t: f(np.floor(t))
  if kind == 5:
    within = Clip(inner, 0, 0.9)
    return Scale(within), lambda t: 1 / (1 - np.clip(f(t), 0, 0.9)) - 1
  if kind == 6:
    within = Clip(inner, 0, 1)
    return Complement(within), lambda t: 1 - np.clip(f(t), 0, 1)
  return Clip(inner, Lin(-1, 0, m + 1), 1), lambda t: np.minimum(
      np.maximum(f(t), lin(-1, 0, m + 1, 0, t)), 1
  )


def test_random_nested_schedules():
  """Values, bounds on them, and text that reads back."""
  rng = np.random.default_rng(0)
  times = np.linspace(0, 60, 241)
  for _ in range(60):
    schedule, expected = draw(rng)
    found = jax.vmap(lambda t: value_at(schedule, t))(jnp.asarray(times))
    np.testing.assert_allclose(
        found, expected(times), rtol=0, atol=1e-12, err_msg=str(schedule)
    )
    low, high = extent(schedule)
    slack = 1e-15 * max(abs(low), abs(high))
    assert low - slack <= found.min() and found.max() <= high + slack, schedule
    assert parse_value(str(schedule)) == schedule
