"""A step whose layers multiply in bfloat16."""

import functools

import jax
import numpy as np
import pytest
from test_step import _DATASET, _EPSILON, _data, _optimizer

from diffai_jax import objectives
from diffai_jax.kernels.platforms import inner_programs
from diffai_jax.networks import convnet
from diffai_jax.training.state import create_state
from diffai_jax.training.step import make_step

NETWORK = convnet(
    3, (0.4,), (0.5,), ((4, 2, 2), (5, 2, 1)), 1, (7,), batch_norm=True
)
GOALS = ("Mix(PGD(2), Box, 0.5)", "HBox")


@functools.cache
def step_of(goal, bfloat16):
  return make_step(
      NETWORK, objectives.parse(goal), _optimizer(), _DATASET, _EPSILON, 5,
      lambda step: step + 1.0, bfloat16=bfloat16,
  )


@functools.cache
def first_state():
  """On the host: a step that takes it does not take it away."""
  state = create_state(NETWORK, _optimizer(), _DATASET.image_shape, seed=1)
  return jax.tree.map(np.asarray, state)


def operations(program):
  for operation in program.eqns:
    yield operation
    for inner in inner_programs(operation):
      yield from operations(inner)


def types_of_products(goal, bfloat16):
  """The types that dense layers' and convolutions' operands have."""
  images, labels = _data()
  program = jax.make_jaxpr(step_of(goal, bfloat16))(
      first_state(), images, labels
  ).jaxpr
  return {
      tuple(v.aval.dtype.name for v in operation.invars)
      for operation in operations(program)
      if operation.primitive.name in ("dot_general", "conv_general_dilated")
      # Sums of squares and of slopes are products of vectors, and stay exact.
      and min(v.aval.ndim for v in operation.invars) > 1
  }


def test_products_are_in_bfloat16_and_gradients_too():
  pair = ("bfloat16", "bfloat16")
  assert types_of_products(GOALS[0], True) == {pair}
  assert types_of_products(GOALS[0], False) == {("float32", "float32")}


@pytest.mark.parametrize("goal", GOALS)
def test_a_step_is_nearly_that_of_float32(goal):
  images, labels = _data()
  (rounded, of_rounded), (exact, of_exact) = (
      step_of(goal, bfloat16)(first_state(), images, labels)
      for bfloat16 in (True, False)
  )
  for name, wanted in of_exact.items():
    np.testing.assert_allclose(of_rounded[name], wanted, rtol=0.05, err_msg=name)
  assert float(of_rounded["loss"]) != float(of_exact["loss"])
  # The state keeps its types, so that certification knows nothing of it.
  types = jax.tree.map(lambda x: x.dtype, (rounded, exact))
  assert types[0] == types[1]
  rounded, exact = jax.device_get((rounded, exact))
  moved = jax.tree.map(
      lambda new, old: new - old, exact.params, first_state().params
  )
  error = jax.tree.map(
      lambda new, old: new - old, rounded.params, exact.params
  )
  norm = functools.partial(
      jax.tree.reduce, lambda total, x: total + float(np.sum(x**2)),
      initializer=0.0,
  )
  assert norm(error) < 0.02 * norm(moved)
