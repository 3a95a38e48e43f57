"""Linear bounds of a network's output, walked back through the run of a step.

They serve as losses: what rounding may add is left out, so they are true up to
rounding, and gradients flow through all bounds and lines (the choice of a lower
line's slope, 0 or 1, has none).
"""

import dataclasses

import jax
import jax.numpy as jnp

from diffai_jax.backward import prepared, upper_bounds, way_to
from diffai_jax.backward.pulled import Pulled, summed
from diffai_jax.domains import rounding
from diffai_jax.domains.hybrid_zonotope import nearest_bounds
from diffai_jax.graph import Call, Followed
from diffai_jax.graph.following import of_examples
from diffai_jax.kernels.adjoint import convolution_adjoint
from diffai_jax.regions import Bounds
from diffai_jax.transformers import lines as table
from diffai_jax.types import Array


def linear_bounds(output: Followed, rows: Array, offsets: Array) -> Array:
  """Upper bounds of ⟨Λ, z⟩ + d over the box, z the output; true up to rounding.

  Args:
    output: of a network, on a box that was followed.
    rows: Λ, [B, S, K].
    offsets: d, [B, S].

  Returns:
    [B, S].
  """
  graph, values = output.run()
  bounds = [nearest_bounds(value) for value in values]
  steps = []
  for number, call in enumerate(graph.calls, start=1):
    given = [bounds[n] for n in call.inputs]
    shapes = [graph.shape(n) for n in call.inputs]
    if of_examples(call):
      step = _ScaledStep(call)
    elif call.transformer == "conv":
      step = _ConvolutionStep(call, shapes[0])
    else:
      step = prepared(call, shapes, given, bounds[number], careful=False)
    steps.append(_with_gradient(call, step))
  way = way_to(graph, steps, bounds, careful=False)
  return upper_bounds(
      way, Bounds(*bounds[0]), bounds[0][0], rows, offsets, len(steps)
  )


def _with_gradient(call: Call, step):
  """The step of a ReLU with a chord that its bounds' gradients flow through."""
  if call.transformer != "relu":
    return step
  low, high = step.low, step.high
  settled = (low >= 0) | (high <= 0)
  narrow = high - low < 1e4 * rounding.tiny(low.dtype) ** 0.5
  width = jnp.where(settled | narrow, 1, high - low)
  chord = jnp.where(settled | narrow, 0, high) / width
  lines = table.lines("relu", {}, {}, low, high, step.slopes.lower, chord)
  return dataclasses.replace(step, lines=lines)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ScaledStep:
  """factor·x + shift with a factor of its own for each example: dropout."""

  call: Call

  def at(self, examples: Array) -> "_ScaledStep":
    arrays = dict(self.call.arrays)
    arrays["factor"] = arrays["factor"][examples]
    return _ScaledStep(dataclasses.replace(self.call, arrays=arrays))

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    factor, shift = (self.call.arrays[name] for name in ("factor", "shift"))
    return Pulled(
        (coefficients * factor[:, None],), summed(coefficients * shift)
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ConvolutionStep:
  """A convolution, whose adjoint has a gradient that is fast."""

  call: Call
  shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})

  def at(self, examples: Array) -> "_ConvolutionStep":
    return self

  def pull(self, coefficients: Array, chosen=None) -> Pulled:
    lead, options = coefficients.shape[:2], dict(self.call.options)
    geometry = tuple(
        options.get(name, default) for name, default in (
            ("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)
        )
    )
    pulled = convolution_adjoint(
        coefficients.reshape((-1,) + coefficients.shape[2:]),
        self.call.arrays["kernel"], self.shape, geometry,
    )
    # The bias is of channels: what it adds is that of their sums.
    sums = coefficients.sum(axis=(2, 3))
    return Pulled(
        (pulled.reshape(lead + self.shape),), sums @ self.call.arrays["bias"]
    )
