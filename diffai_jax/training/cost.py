"""What a training step costs, from its program and without running it."""

from collections.abc import Callable
import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax.kernels.platforms import inner_programs
from diffai_jax.training.state import TrainState

# Forward passes that a step on a point and a box is worth: a point's, and twice as
# much for its gradients; and for a box twice that, of its center and its radius.
PASSES = 9
# What XLA does in place or fuses into its consumer: takes no memory of its own.
_FREE = frozenset((
    "broadcast_in_dim", "convert_element_type", "reshape", "squeeze",
))


@dataclasses.dataclass(frozen=True)
class StepCost:
  """The estimate.

  Attributes:
    flops: floating-point operations of a step.
    memory: bytes for the state, and the most that is alive at one time beside
      it. XLA never writes some of it down: measured, steps took 0.6 to 1.2 of
      this.
  """

  flops: float
  memory: int

  def __str__(self) -> str:
    return f"{self.flops / 1e9:,.2f} GFLOP, {self.memory / 2**20:,.0f} MiB"


def step_cost(
    step: Callable, state: TrainState, batch_size: int, image_shape
) -> StepCost:
  """Estimates one step on one device.

  Args:
    step: as `make_step` makes it.
    state: its shapes are enough (`jax.eval_shape`).
    batch_size: images a step.
    image_shape: of one example, [H, W, C].
  """
  images = jax.ShapeDtypeStruct((1, batch_size, *image_shape), jnp.uint8)
  labels = jax.ShapeDtypeStruct((1, batch_size), jnp.int32)
  program = jax.make_jaxpr(step)(state, images, labels).jaxpr
  held = sum(_bytes(leaf) for leaf in jax.tree.leaves(state))
  return StepCost(_flops(program), held + _peak(program))


def training_flops(network: nn.Module, image_shape) -> float:
  """Operations of a training step for each example, by order of magnitude.

  Those of its products with a point and a box: `PASSES` times a forward pass.

  Args:
    network: the module.
    image_shape: of one example, [H, W, C].
  """
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  program = jax.make_jaxpr(network.apply)(variables, images).jaxpr
  return PASSES * _flops(program)


def _flops(program) -> float:
  """Two for each product of a sum of products, one for each other result.

  The body of a scan counts as often as it runs; that of another loop once.
  """
  total = 0.0
  for operation in program.eqns:
    inside = [_flops(inner) for inner in inner_programs(operation)]
    parameters = operation.params
    if inside:
      total += parameters.get("length", 1) * max(inside)
      continue
    results = sum(math.prod(v.aval.shape) for v in operation.outvars)
    if operation.primitive.name == "dot_general":
      (contracted, _), _ = parameters["dimension_numbers"]
      shape = operation.invars[0].aval.shape
      results *= 2 * math.prod(shape[axis] for axis in contracted)
    elif operation.primitive.name == "conv_general_dilated":
      results = 2 * _products(operation)
    elif operation.primitive.name in _FREE:
      continue
    total += results
  return total


def _products(convolution) -> int:
  """How many products a convolution sums, those with padding left out."""
  image, kernel = (v.aval.shape for v in convolution.invars)
  out = convolution.outvars[0].aval.shape
  parameters = convolution.params
  places = parameters["dimension_numbers"]
  # Each output has its batch and channel, and sums over the kernel's inputs.
  total = out[places.out_spec[0]] * out[places.out_spec[1]]
  total *= kernel[places.rhs_spec[1]]
  for axis in range(len(parameters["window_strides"])):
    taps = np.arange(kernel[places.rhs_spec[2 + axis]])
    starts = np.arange(out[places.out_spec[2 + axis]])
    seen = (
        starts[:, None] * parameters["window_strides"][axis]
        + taps * parameters["rhs_dilation"][axis]
        - parameters["padding"][axis][0]
    )
    apart = parameters["lhs_dilation"][axis]
    last = (image[places.lhs_spec[2 + axis]] - 1) * apart
    total *= int(np.sum((seen >= 0) & (seen <= last) & (seen % apart == 0)))
  return total


def _peak(program) -> int:
  """The most bytes of results that are alive at one time.

  A result is alive from the operation that makes it to the last that reads it;
  what an operation's own program needs is added while it runs.
  """
  last_read = {}
  for number, operation in enumerate(program.eqns):
    for value in operation.invars:
      if not hasattr(value, "val"):  # Literals take no memory.
        last_read[value] = number
  for value in program.outvars:
    if not hasattr(value, "val"):
      last_read[value] = len(program.eqns)
  # A fused result is read from its operand's memory.
  for number, operation in reversed(list(enumerate(program.eqns))):
    if operation.primitive.name in _FREE:
      until = max(last_read.get(v, number) for v in operation.outvars)
      for value in operation.invars:
        if not hasattr(value, "val"):
          last_read[value] = max(last_read[value], until)

  alive, peak = {}, 0
  for number, operation in enumerate(program.eqns):
    inside = max(map(_peak, inner_programs(operation)), default=0)
    made = {}
    if operation.primitive.name not in _FREE:
      made = {v: _bytes(v.aval) for v in operation.outvars if v in last_read}
    held = sum(alive.values())
    peak = max(peak, held + max(inside, sum(made.values())))
    alive |= made
    alive = {v: size for v, size in alive.items() if last_read[v] > number}
  return peak


def _bytes(array) -> int:
  itemsize = getattr(array.dtype, "itemsize", 8)  # Random keys have 8.
  return math.prod(array.shape) * itemsize
