"""Optax's schedules by name, against optax itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffai_jax.goals import ObjectiveError, parse_value
from diffai_jax.optax_schedules import OPTAX
from diffai_jax.schedules import extent

TIMES = np.linspace(0, 250, 501)
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

pytestmark = pytest.mark.usefixtures("float64")


def test_every_name_has_a_case():
  assert {text.split("(")[0] for text in CASES} == set(OPTAX)


@pytest.mark.parametrize("text", CASES)
def test_values_are_optaxs_at_fractional_epochs(text):
  schedule = parse_value(text)
  expected = [CASES[text](t) for t in TIMES]
  np.testing.assert_allclose([schedule(t) for t in TIMES], expected, atol=1e-12)


@pytest.mark.parametrize("text", CASES)
def test_extent_holds_all_values(text):
  schedule = parse_value(text)
  low, high = extent(schedule)
  values = np.asarray([CASES[text](t) for t in TIMES])
  assert low - 1e-12 <= values.min() and values.max() <= high + 1e-12


@pytest.mark.parametrize("text", CASES)
def test_text_reads_back_and_names_arguments(text):
  schedule = parse_value(text)
  assert parse_value(str(schedule)) == schedule
  assert "=" in str(schedule)


def test_jit_compiles_once():
  traces = []
  schedule = parse_value("1e-3 * warmup_cosine(0, 1, 20, 200)")

  @jax.jit
  def value(t):
    traces.append(t)
    return schedule(t)

  found = [value(jnp.asarray(t)) for t in TIMES]
  np.testing.assert_allclose(found, [schedule(t) for t in TIMES], atol=1e-12)
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
])
def test_wrong_arguments_are_refused_in_one_line(text, reason):
  with pytest.raises(ObjectiveError) as caught:
    parse_value(text)
  assert reason in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1
