"""The training step, pmapped over the devices."""

import dataclasses
import functools
from typing import Callable

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import optax

from diffai_jax import regularizers
from diffai_jax.data import Dataset, augment, to_unit_range
from diffai_jax.domains import HybridZonotope, parts, radius
from diffai_jax.domains.product import Value, center
from diffai_jax.goals import Context, Goal, ball
from diffai_jax.nn import deep_loss, dropout, observation
from diffai_jax.nn.abstract import RNG
from diffai_jax.schedules import Value as Weight
from diffai_jax.schedules import value_at
from diffai_jax.training.optimizers import global_norm
from diffai_jax.training.state import AXIS, TrainState
from diffai_jax.types import Array, Mode, PRNGKey

# What random keys are drawn for; each purpose has numbers of its own.
_AUGMENT, _GOAL, _ABSTRACT, _BATCH, _DROPOUT = range(5)


@dataclasses.dataclass(frozen=True)
class Regularizers:
  """Weights of what is added to the loss; see `diffai_jax.regularizers`.

  Attributes:
    tightness, relu_balance: numbers or schedules of the epoch.
    tolerance: τ of both.
  """

  tightness: Weight = 0
  relu_balance: Weight = 0
  tolerance: float = regularizers.TOLERANCE

  def __bool__(self) -> bool:
    return self.tightness != 0 or self.relu_balance != 0


def step_key(key: PRNGKey, step: Array, purpose: int) -> PRNGKey:
  """The key of a step for one purpose, the same on all devices."""
  return jax.random.fold_in(jax.random.fold_in(key, step), purpose)


def batch_key(seed: int, step: Array) -> PRNGKey:
  """The key that a step's coins are thrown with, the same on all devices."""
  return step_key(jax.random.key(seed), step, _BATCH)


def example_keys(key: PRNGKey, step: Array, purpose: int, size: int) -> PRNGKey:
  """A key for each example of this device's share, [size].

  Folded by (step, purpose, index in the whole batch), so that what an example
  gets does not depend on how many devices share the work. For use under pmap.
  """
  first = lax.axis_index(AXIS) * size
  key = step_key(key, step, purpose)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))


def make_step(
    network: nn.Module,
    goal: Goal,
    optimizer: optax.GradientTransformation,
    dataset: Dataset,
    epsilon: float,
    seed: int,
    epoch_of: Callable[[Array], Array],
    regularize: Regularizers = Regularizers(),
) -> Callable[[TrainState, Array, Array], tuple[TrainState, dict[str, Array]]]:
  """The pmapped step (state, images, labels) -> (state, metrics).

  The state is replicated and donated. The batch is split over the devices on
  axis 0: images uint8 [devices, b, H, W, C], labels int32 [devices, b].

  Args:
    network: called as network(value, mode).
    goal: the objective; static.
    optimizer: as `optimizers.create` makes it.
    dataset: says how images are augmented.
    epsilon: radius of the input box, before the goal changes it.
    seed: of augmentation and of random goals.
    epoch_of: step -> epoch on the schedules' clock.
    regularize: what is added to the loss.

  Returns:
    The step. Metrics are scalars over the whole batch: `loss`, `epsilon` (the
    largest radius that was trained on), `largest_bound` (of the outputs),
    `gradient_norm`, and the goal's accuracies.
  """

  def forward(params, value: Value, mode: Mode) -> Value:
    return network.apply({"params": params}, value, mode)

  asked = [deep_loss.COLLECTION]
  if regularize:
    asked.append(observation.COLLECTION)

  def train_forward(params, value: Value, key: PRNGKey, epoch: Array, keys):
    """The output, and what the layers showed on the way."""
    variables = {"params": params} | dropout.training_state(epoch, keys)
    return network.apply(
        variables, value, Mode.TRAIN, rngs={RNG: key}, mutable=asked
    )

  def local_step(state: TrainState, images: Array, labels: Array):
    key = jax.random.key(seed)
    size = labels.shape[0]
    keys = example_keys(key, state.step, _AUGMENT, size)
    images = augment(images, keys, dataset.crop_padding, dataset.flip)
    lower, upper = ball(to_unit_range(images), epsilon)
    goal_keys = example_keys(key, state.step, _GOAL, size)
    dropout_keys = example_keys(key, state.step, _DROPOUT, size)
    # One key for the whole batch: abstract layers draw for all examples alike.
    abstract_key = step_key(key, state.step, _ABSTRACT)

    def loss(params):
      context = Context(
          forward=functools.partial(forward, lax.stop_gradient(params)),
          labels=labels,
          epoch=epoch_of(state.step),
          key=goal_keys,
          batch_key=batch_key(seed, state.step),
      )
      value = goal.abstract(lower, upper, context)
      output, sown = train_forward(
          params, value, abstract_key, context.epoch, dropout_keys
      )
      losses = goal.loss(output, labels, context)
      losses = deep_loss.fold(losses, sown, context.epoch)
      losses = losses + _regularization(regularize, sown, context.epoch)
      metrics = {
          "epsilon": _largest_radius(value),
          "largest_bound": _largest_bound(output),
      }
      shares = {
          name: jnp.mean(holds)
          for name, holds in goal.accuracies(output, labels, context).items()
      }
      return jnp.mean(losses), (metrics, shares)

    (value, (metrics, shares)), gradient = jax.value_and_grad(
        loss, has_aux=True
    )(state.params)
    gradient = lax.pmean(gradient, AXIS)
    metrics = lax.pmax(metrics, AXIS)
    metrics |= lax.pmean({"loss": value} | shares, AXIS)
    metrics["gradient_norm"] = global_norm(gradient)
    updates, optimizer_state = optimizer.update(
        gradient, state.optimizer, state.params
    )
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, optimizer_state), metrics

  return jax.pmap(
      local_step,
      axis_name=AXIS,
      in_axes=(None, 0, 0),
      out_axes=None,
      donate_argnums=0,
  )


def _regularization(
    regularize: Regularizers, sown: dict, epoch: Array
) -> Array:
  """What the regularisers add to the loss, a mean over a Product's elements."""
  firsts = observation.observed(sown, "input")
  inputs = observation.observed(sown, "before ReLU")
  total, count = jnp.zeros(()), len(firsts[0]) if firsts else 0
  for number in range(count):
    first, rest = firsts[0][number], [call[number] for call in inputs]
    tightness = regularizers.tightness(
        first, rest, regularize.tolerance, _mean_of_all
    )
    balance = regularizers.relu_balance(
        rest, regularize.tolerance, _mean_of_all
    )
    total = total + value_at(regularize.tightness, epoch) * tightness
    total = total + value_at(regularize.relu_balance, epoch) * balance
  return total / max(count, 1)


def _mean_of_all(values: Array) -> Array:
  """The mean over all devices' examples, with the gradient of their own share.

  Gradients are averaged over the devices afterwards, which makes of these
  shares the gradient of the whole mean.
  """
  own = jnp.mean(values)
  return own + lax.stop_gradient(lax.pmean(own, AXIS) - own)


def _elements(value: Value) -> list[HybridZonotope]:
  return [part for part in parts(value) if isinstance(part, HybridZonotope)]


def _largest_radius(value: Value) -> Array:
  """The largest radius of the elements that a goal built; 0 if there is none."""
  radii = [jnp.max(radius(element)) for element in _elements(value)]
  return functools.reduce(jnp.maximum, radii, jnp.zeros(()))


def _largest_bound(output: Value) -> Array:
  """The largest magnitude that an output can have."""
  sizes = [jnp.max(jnp.abs(center(part))) for part in parts(output)]
  sizes += [
      jnp.max(jnp.abs(element.center) + radius(element))
      for element in _elements(output)
  ]
  return functools.reduce(jnp.maximum, sizes)
