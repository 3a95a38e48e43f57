"""Optax's schedules by name, against optax itself."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffai_jax.objectives import ObjectiveError, parse_value
from diffai_jax.schedules.optax_schedules import OPTAX, OptaxSchedule
from diffai_jax.schedules import extent

TIMES = np.concatenate([np.arange(0, 250, 3.25), [20, 60, 150, 170, 200]])
CASES = {
    "constant(0.3)": optax.constant_schedule(0.3),
    "cosine(1, 200)": optax.cosine_decay_schedule(1.0, 200),
    "cosine(0.8, 100, 0.1, 2)":
        optax.cosine_decay_schedule(0.8, 100, 0.1, 2.0),
    "cosine(init_value=1, decay_steps=50, alpha=1.5)":
        optax.cosine_decay_schedule(1.0, 50, 1.5),
    "cosine_onecycle(200, 1)": optax.cosine_onecycle_schedule(200, 1.0),
    "exponential(1, 20, 0.5)": optax.exponential_decay(1.0, 20, 0.5),
    "exponential(1, 20, 0.5, 10, end_value=0.2)":
        optax.exponential_decay(1.0, 20, 0.5, 10, end_value=0.2),
    "exponential(0.1, 20, 1.5, end_value=0.7)":
        optax.exponential_decay(0.1, 20, 1.5, end_value=0.7),
    "linear(0, 1, 150, 10)": optax.linear_schedule(0.0, 1.0, 150, 10),
    "linear_onecycle(200, 1)": optax.linear_onecycle_schedule(200, 1.0),
    "linear_onecycle(200, 1, final_div_factor=2)":
        optax.linear_onecycle_schedule(200, 1.0, final_div_factor=2),
    "polynomial(1, 0.1, 2, 150, 20)":
        optax.polynomial_schedule(1.0, 0.1, 2, 150, 20),
    "warmup_constant(0, 1, 30)": optax.warmup_constant_schedule(0.0, 1.0, 30),
    "warmup_cosine(0, 1, 20, 200, 0.1)":
        optax.warmup_cosine_decay_schedule(0.0, 1.0, 20, 200, 0.1),
    "warmup_exponential(0, 1, 20, 50, 0.5)":
        optax.warmup_exponential_decay_schedule(0.0, 1.0, 20, 50, 0.5),
}

# Optax's functions, by the names that texts have for them.
FACTORIES = {
    "constant": optax.constant_schedule,
    "cosine": optax.cosine_decay_schedule,
    "cosine_onecycle": optax.cosine_onecycle_schedule,
    "exponential": optax.exponential_decay,
    "linear": optax.linear_schedule,
    "linear_onecycle": optax.linear_onecycle_schedule,
    "polynomial": optax.polynomial_schedule,
    "warmup_constant": optax.warmup_constant_schedule,
    "warmup_cosine": optax.warmup_cosine_decay_schedule,
    "warmup_exponential": optax.warmup_exponential_decay_schedule,
}
# Arguments in optax's order, with the lowest and the highest value; None where
# an end is only approached or the bound is not the closest.
EXTENTS = [
    ("constant", (-0.5,), -0.5, -0.5),
    ("cosine", (1, 100), 0, 1),
    ("cosine", (-2, 100, 0.25), -2, -0.5),
    ("cosine", (1, 100, -0.5, 3), -0.5, 1),
    ("cosine", (1, 80.5, 2, 0.5), 1, 2),
    ("cosine_onecycle", (200, 3), 3 / 25 / 1e4, 3),
    ("cosine_onecycle", (100, 2, 0.5, 4, 0.25), None, None),
    ("exponential", (1, 20, 0.5), None, 1),
    ("exponential", (-1, 20, 0.5, 10), -1, None),
    ("exponential", (1, 20, 0.5, 10.5, 1), None, 1),
    ("exponential", (1, 20, 0.5, 0, 0, 0.25), None, 1),
    ("exponential", (0.1, 20, 0.5, 0, 0, 0.25), None, 0.25),
    ("exponential", (-1, 20, 0.5, 0, 0, -2), None, None),
    ("exponential", (0.5, 20, 1), None, 0.5),
    ("exponential", (0.1, 20, 3, 5, 1, 0.7), 0.1, 0.7),
    ("exponential", (0.9, 20, 3, 5, 1, 0.7), None, None),
    ("linear", (1, -2, 33.5, 4), -2, 1),
    ("linear", (0.3, 0.6, 0), None, None),
    ("linear_onecycle", (200, 3), 3 / 25 / 1e4, 3),
    ("linear_onecycle", (200, 1, 0.4, 0.7, 5, 10), None, 1),
    ("linear_onecycle", (100, 2, 0.3, 0.85, 4, 0.25), None, None),
    ("linear_onecycle", (2, 1), None, 1),
    ("polynomial", (1, 0.1, 3, 50), 0.1, 1),
    ("polynomial", (-1, 2, 0.5, 50, 10), -1, 2),
    ("warmup_constant", (0.5, -1, 30), -1, 0.5),
    ("warmup_cosine", (0.1, 2, 20, 200), 0, 2),
    ("warmup_cosine", (1, 0.2, 20, 200, 0.5, 2), 0.2, 1),
    ("warmup_cosine", (-1, -0.5, 20, 200, 3), -1, 3),
    ("warmup_exponential", (2, 1, 20, 10, 0.5), None, 2),
    ("warmup_exponential", (-1, 1, 20, 30, 2, 5, 1, 4), -1, 4),
    ("warmup_exponential", (0, 1, 20, 10, 0.5, 0, 0, 0.25), 0, 1),
]

pytestmark = pytest.mark.usefixtures("float64")


def test_every_name_has_a_case():
  assert {text.split("(")[0] for text in CASES} == set(OPTAX)


@pytest.mark.parametrize("text", CASES)
def test_values_are_optaxs_at_fractional_epochs(text):
  schedule = parse_value(text)
  expected = [CASES[text](t) for t in TIMES]
  np.testing.assert_allclose([schedule(t) for t in TIMES], expected, atol=1e-12)


@pytest.mark.parametrize(
    "name, arguments, lowest, highest", EXTENTS, ids=str
)
def test_extent_holds_all_values(name, arguments, lowest, highest):
  """On a fine grid; it is no wider than that where all values are reached."""
  low, high = extent(OptaxSchedule.build(name, list(arguments), {}))
  values = np.asarray(jax.vmap(FACTORIES[name](*arguments))(
      jnp.linspace(0, 250, 5001)
  ))
  assert low - 1e-12 <= values.min() and values.max() <= high + 1e-12
  if lowest is not None:
    np.testing.assert_allclose([low, values.min()], lowest, atol=1e-12)
  if highest is not None:
    np.testing.assert_allclose([high, values.max()], highest, atol=1e-12)


def test_every_name_has_an_extent():
  assert {name for name, *_ in EXTENTS} == set(OPTAX) == set(FACTORIES)


@pytest.mark.parametrize(
    "name, arguments, lowest, highest", EXTENTS, ids=str
)
def test_positional_and_named_arguments_are_the_same(
    name, arguments, lowest, highest
):
  names = inspect.signature(FACTORIES[name]).parameters
  named = dict(zip(names, arguments))
  one = OptaxSchedule.build(name, list(arguments), {})
  two = OptaxSchedule.build(name, [], dict(reversed(named.items())))
  mixed = OptaxSchedule.build(name, [arguments[0]], {
      word: value for word, value in named.items() if word != next(iter(names))
  })
  assert one == two == mixed and hash(one) == hash(two) == hash(mixed)
  positional = f"{name}({', '.join(map(str, arguments))})"
  assert parse_value(positional) == one == parse_value(str(one))
  expected = FACTORIES[name](**named)
  for epoch in (0, 0.25, 13.7, 20, 99.99, 201.5):
    for schedule in (one, two):
      np.testing.assert_allclose(
          schedule(epoch), expected(epoch), rtol=0, atol=1e-12
      )


@pytest.mark.parametrize("text", CASES)
def test_text_reads_back_and_names_arguments(text):
  schedule = parse_value(text)
  assert parse_value(str(schedule)) == schedule
  assert "=" in str(schedule)


@pytest.mark.parametrize("text", [
    *CASES, "1e-3 * warmup_cosine(0, 1, 20, 200)"
])
def test_jit_compiles_once(text):
  """Nothing recompiles as the epoch moves."""
  traces = []
  schedule = parse_value(text)

  @jax.jit
  def value(t):
    traces.append(t)
    return schedule(t)

  found = [value(jnp.asarray(t)) for t in TIMES[::4]]
  np.testing.assert_allclose(
      found, [schedule(t) for t in TIMES[::4]], atol=1e-12
  )
  assert len(traces) == 1


@pytest.mark.parametrize("text, reason", [
    ("cosine(1)", "decay_steps"),
    ("cosine(1, 2, 3, 4, 5)", "too many"),
    ("cosine(1, 0)", "positive"),
    ("cosine(1, 9, exponent=-1)", "exponent must be above 0"),
    ("exponential(1, 5, -0.5)", "decay_rate"),
    ("exponential(1, 5, 2)", "end_value"),
    ("polynomial(1, 0, 0, 5)", "power must be above 0"),
    ("warmup_cosine(0, 1, 20, 200, exponent=0)", "exponent"),
    ("linear(0, 1, Lin(0, 1, 5))", "expected a number"),
    ("cosine_onecycle(0, 1)", "transition_steps"),
    ("cosine_onecycle(0.9, 1)", "different whole epochs"),
    ("linear_onecycle(1, 1)", "different whole epochs"),
    ("linear_onecycle(100, 1, 0.5, 0.505)", "different whole epochs"),
])
def test_wrong_arguments_are_refused_in_one_line(text, reason):
  with pytest.raises(ObjectiveError) as caught:
    parse_value(text)
  assert reason in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name, positional, named", [
    ("cosine", [1], {}),
    ("cosine", [1, 9, 0, 1, 5], {}),
    ("cosine", [1, 9], {"init_value": 1}),
    ("linear", [0, 1, 5], {"steps": 5}),
    ("cosine", [1, 0], {}),
    ("exponential", [1, 5, 0], {}),
    ("exponential", [-1, 5, 2], {"end_value": 5}),
    ("polynomial", [0, 1, -1, 5], {}),
    ("warmup_cosine", [0, 1, 20, 20], {}),
    ("cosine_onecycle", [20, 1], {"div_factor": 0}),
    ("linear_onecycle", [20, 1], {"final_div_factor": -1}),
])
def test_wrong_arguments_are_errors_that_name_the_schedule(
    name, positional, named
):
  with pytest.raises(ValueError, match=f"^{name}") as caught:
    OptaxSchedule.build(name, positional, named)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", [
    "linear(0, 1, transition_steps=5, transition_steps=9)",
    "constant(value=1, value=2)", "Lin(0, 1, 5, hold=1, hold=2)",
])
def test_an_argument_given_twice_is_refused(text):
  with pytest.raises(ObjectiveError):
    parse_value(text)


@pytest.mark.parametrize("given, text", [
    ("cosine(0.8, 100, 0.1, 2)",
     "cosine(init_value=0.8, decay_steps=100, alpha=0.1, exponent=2)"),
    ("linear(transition_begin=10, end_value=1e-5, transition_steps=150.0,"
     " init_value=1)",
     "linear(init_value=1, end_value=1e-05, transition_steps=150,"
     " transition_begin=10)"),
])
def test_texts_name_the_given_arguments_in_optaxs_order(given, text):
  assert str(parse_value(given)) == text


def test_of_an_error_of_many_lines_the_first_is_shown(monkeypatch):
  def factory(value):
    raise TypeError(f"{value} will not do\nbecause of that")

  monkeypatch.setitem(OPTAX, "constant", (factory, lambda given: (0, 1)))
  with pytest.raises(ValueError) as caught:
    OptaxSchedule.build("constant", [7], {})
  assert str(caught.value) == "constant: 7 will not do"


@pytest.mark.parametrize("text", [
    "linear_onecycle(100, 0.1, 0.7, 0.3, 0.1)", "cosine_onecycle(20, -1, 1.5)",
])
def test_turning_points_that_do_not_rise_to_the_end_are_refused(text):
  """Optax sorts them: the first reaches 10 then, the second never -1."""
  with pytest.raises(ObjectiveError):
    parse_value(text)


@pytest.mark.parametrize("text", [
    "exponential(0, 1, 2, end_value=1)",
    "warmup_exponential(1, 0, 5, 1, 2, end_value=1)",
])
def test_a_growth_from_0_is_refused(text):
  """It stays 0, and at epoch 2000 optax would compute 0·∞."""
  with pytest.raises(ObjectiveError, match="init_value above 0"):
    parse_value(text)
