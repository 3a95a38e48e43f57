"""What is measured of an image: its prediction, an attack, what a method proves.

A measure is a function of (weights, inputs) that says something about each image;
`programs` compiles it and runs it on batches. One that takes many equal steps, such
as an attack, is a `StepwiseMeasure`. Measures are frozen dataclasses: equal ones
share their compiled programs.
"""

from collections.abc import Callable
import dataclasses
from typing import Protocol, runtime_checkable

from flax import linen as nn
import jax
import jax.numpy as jnp

from diffai_jax.attacks import Problem, StepwiseAttack
from diffai_jax.attacks.stepwise import chosen_by_example
from diffai_jax.data import to_floats
from diffai_jax.domains.product import Value
from diffai_jax.graph import Graph
from diffai_jax.networks import graph_of
from diffai_jax.regions import labels as labels_spec
from diffai_jax.types import Array, Mode
from diffai_jax.verification.inputs import Inputs
from diffai_jax.verification.methods import Method

_ATTACKS = 1  # The purpose that keys of attacks are derived for.

# (weights, inputs of b examples) -> arrays [b, ...] by name.
Measure = Callable[[dict, Inputs], dict[str, Array]]


@runtime_checkable
class StepwiseMeasure(Protocol):
  """A measure that repeats a step, which is one compiled program.

  A program of all steps would take long to compile where they are written out,
  and long to run where they are a loop.

  Attributes:
    steps: how often `step` is called.
  """

  steps: int

  def begin(self, params: dict, inputs: Inputs):
    """The state before the first step, a pytree of arrays [b, ...]."""

  def step(self, params: dict, inputs: Inputs, state):
    """The state after one step."""

  def end(self, params: dict, inputs: Inputs, state) -> dict[str, Array]:
    """What a measure gives, after the last step."""


@dataclasses.dataclass(frozen=True)
class MeasurePrediction:
  """The `prediction` for each image; -1 where a logit is not finite."""

  network: nn.Module

  def __call__(self, params: dict, inputs: Inputs) -> dict[str, Array]:
    logits = self.network.apply({"params": params}, to_floats(inputs.images))
    prediction = jnp.argmax(logits, axis=1)
    finite = jnp.all(jnp.isfinite(logits), axis=1)
    return {"prediction": jnp.where(finite, prediction, -1).astype(jnp.int32)}


@dataclasses.dataclass(frozen=True)
class MeasureAttack:
  """Whether an image stays `correct` under an attack.

  And a `counterexample`: the point that the network gets wrong, or 0.

  Attributes:
    network: called as network(value, mode).
    attack: which.
    classes: how many logits the network has.
  """

  network: nn.Module
  attack: StepwiseAttack
  classes: int

  @property
  def steps(self) -> int:
    return self.attack.calls(self.classes)

  def begin(self, params: dict, inputs: Inputs):
    return self.attack.begin(self._problem(params, inputs))

  def step(self, params: dict, inputs: Inputs, state):
    return self.attack.advance(self._problem(params, inputs), state)

  def end(self, params: dict, inputs: Inputs, state) -> dict[str, Array]:
    problem = self._problem(params, inputs)
    points = self.attack.points(state)
    wrong = problem.wrong(problem.forward(points))
    return {
        "correct": ~wrong,
        "counterexample": chosen_by_example(wrong, points, jnp.zeros_like(points)),
    }

  def _problem(self, params: dict, inputs: Inputs) -> Problem:
    key = jax.random.fold_in(jax.random.key(0), _ATTACKS)
    return Problem(
        forward=lambda x: self.network.apply({"params": params}, x),
        images=to_floats(inputs.images), region=inputs.region,
        labels=inputs.labels, classes=self.classes,
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, inputs.index),
    )


@dataclasses.dataclass(frozen=True)
class MeasureMargin:
  """A method's worst `margin` over the region, and whether it is `proved`."""

  network: nn.Module
  method: Method

  def __call__(self, params: dict, inputs: Inputs) -> dict[str, Array]:
    images = to_floats(inputs.images)
    graph = certified_graph(self.network, {"params": params}, images)
    spec = labels_spec(inputs.labels, graph.output_shape[0], images.dtype)
    bounds = self.method.bound(graph, images, inputs.region, spec)
    # One decides what the other shows: whatever compiles them, nothing is proved
    # whose margin is not above 0.
    worst = spec.margins(bounds)
    return {"proved": spec.proved(bounds) & (worst > 0), "margin": worst}


@dataclasses.dataclass(frozen=True)
class Transformed:
  """A network that JAX or Flax transforms inside, which is no graph.

  Attributes:
    forward: the network of a value.
    output_shape: of one example.
  """

  forward: Callable[[Value], Value]
  output_shape: tuple[int, ...]

  def __call__(self, value: Value) -> Value:
    return self.forward(value)


def certified_graph(
    network: nn.Module, variables: dict, images: Array
) -> Graph | Transformed:
  """The network with the abstract layers that certification has.

  Args:
    network: called as network(value, mode).
    variables: what it is applied with.
    images: [B, ...], of which the shape and the type count.
  """
  forward = lambda value: network.apply(variables, value, Mode.CERTIFY)
  try:
    return graph_of(
        network, variables, images.shape[1:], Mode.CERTIFY, images.dtype
    )
  except TypeError:  # A Recording under `nn.jit`, `nn.scan` or the like.
    like = jax.eval_shape(lambda x: network.apply(variables, x), images)
    return Transformed(forward, like.shape[1:])
