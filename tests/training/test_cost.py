"""The estimated cost of a step against the compiled program's."""

import functools

import jax
import jax.numpy as jnp
import pytest
from test_step import _optimizer

from diffai_jax import objectives
from diffai_jax.data import Dataset
from diffai_jax.networks import create
from diffai_jax.training.cost import step_cost
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step

# Estimates are of optimised programs.
pytestmark = pytest.mark.optimized

DATA = Dataset((16, 16, 2), 5, (0.4,) * 2, (0.5,) * 2, epsilon=0.1)
BATCH = 64


@functools.cache
def case(network, goal):
  """The estimate, and what lowers the step."""
  module = create(network, 5, DATA.mean, DATA.std)
  step = make_step(
      module, objectives.parse(goal), _optimizer(), DATA, 0.1, 0, lambda step: step
  )
  state = jax.eval_shape(
      lambda: create_state(module, _optimizer(), DATA.image_shape, 0)
  )
  images = jax.ShapeDtypeStruct((1, BATCH, *DATA.image_shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((1, BATCH), jnp.int32)
  estimate = step_cost(step, state, BATCH, DATA.image_shape)
  return estimate, lambda: step.lower(state, images, labels)


@pytest.mark.parametrize("network, goal", [
    ("ConvSmall", "Point"), ("ConvSmall", "Mix(Point, Box, 0.5)"),
    ("ConvMed", "Mix(Point, HBox, 0.5)"),
])
def test_estimate_is_near_what_is_compiled(network, goal):
  """Operations to a fifth, memory to a factor of two."""
  estimate, lower = case(network, goal)
  compiled = lower().compile()
  assert estimate.flops == pytest.approx(
      compiled.cost_analysis()["flops"], rel=0.2
  )
  stats = compiled.memory_analysis()
  taken = stats.temp_size_in_bytes + stats.argument_size_in_bytes
  # A step as small as this one holds copies that are nothing in a real one.
  assert 0.8 * taken <= estimate.memory <= 2.2 * taken


def test_point_and_box_cost_three_times_a_point():
  """Centers, points and radii: three passes where Point has one."""
  point, _ = case("ConvSmall", "Point")
  both, _ = case("ConvSmall", "Mix(Point, Box, 0.5)")
  assert 2.5 < both.flops / point.flops < 3.5


def test_each_step_of_an_attack_counts():
  """k more steps cost k times as much more."""
  costs = [case("ConvSmall", f"PGD({steps})")[0].flops for steps in (2, 4, 8)]
  assert costs[2] - costs[1] == pytest.approx(2 * (costs[1] - costs[0]))
  assert costs[1] - costs[0] > 0.5 * case("ConvSmall", "Point")[0].flops


def test_text():
  estimate, _ = case("ConvSmall", "Point")
  assert str(estimate) == (
      f"{estimate.flops / 1e9:.2f} GFLOP, {estimate.memory / 2**20:.0f} MiB"
  )
