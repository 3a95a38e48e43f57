"""The training step, pmapped over the devices."""

import dataclasses
import functools
from typing import Callable

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from diffai_jax.data import Augmentation, Dataset, augment, to_floats
from diffai_jax.domains import HybridZonotope, parts, radius
from diffai_jax.domains.product import Value, center
from diffai_jax.goals import Context, Goal, ball
from diffai_jax.graph import named_by_layers, plain
from diffai_jax.kernels import precision
from diffai_jax.losses import regularizers
from diffai_jax.nn import batch_norm, deep_loss, dropout, observation
from diffai_jax.nn.abstract import RNG
from diffai_jax.schedules import NumberOrSchedule, value_at
from diffai_jax.training.optimizers import global_norm
from diffai_jax.training.state import TrainState
from diffai_jax.types import AXIS, Array, Mode, PRNGKey

# (state, images, labels) -> (state, metrics): a step, or several.
Step = Callable[
    [TrainState, Array, Array], tuple[TrainState, dict[str, Array]]
]

# What random keys are drawn for; each purpose has numbers of its own.
_AUGMENT, _GOAL, _ABSTRACT, _BATCH, _DROPOUT = range(5)


@dataclasses.dataclass(frozen=True)
class Regularizers:
  """Weights of what is added to the loss; see `diffai_jax.losses.regularizers`.

  Attributes:
    tightness, relu_balance: numbers or schedules of the epoch.
    tolerance: τ of both.
  """

  tightness: NumberOrSchedule = 0
  relu_balance: NumberOrSchedule = 0
  tolerance: float = regularizers.TOLERANCE

  def __bool__(self) -> bool:
    return self.tightness != 0 or self.relu_balance != 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Part:
  """Some of a batch's examples: images as floats, labels, keys; [B, ...]."""

  images: Array
  labels: Array
  goal_keys: PRNGKey
  dropout_keys: PRNGKey


def step_key(key: PRNGKey, step: Array, purpose: int) -> PRNGKey:
  """The key of a step for one purpose, the same on all devices."""
  return jax.random.fold_in(jax.random.fold_in(key, step), purpose)


def batch_key(seed: int, step: Array) -> PRNGKey:
  """The key that a step's coins are thrown with, the same on all devices."""
  return step_key(jax.random.key(seed), step, _BATCH)


def example_keys(key: PRNGKey, step: Array, purpose: int, size: int) -> PRNGKey:
  """A key for each example of this device's share, [size].

  Derived from (step, purpose, index in the whole batch), so that what an example
  gets does not depend on how many devices share the work. For use under pmap.
  """
  first = lax.axis_index(AXIS) * size
  key = step_key(key, step, purpose)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(size))


def make_step(
    network: nn.Module,
    goal: Goal,
    optimizer: optax.GradientTransformation,
    augmentation: Augmentation | Dataset,
    epsilon: float,
    seed: int,
    epoch_of: Callable[[Array], Array],
    regularize: Regularizers = Regularizers(),
    accumulate: int = 1,
    bfloat16: bool = False,
    data_range: tuple[float, float] | None = (0.0, 1.0),
    together: int | None = None,
) -> Step:
  """The pmapped step (state, images, labels) -> (state, metrics).

  The state is replicated and donated. The batch is split over the devices on
  axis 0: images [devices, b, ...], uint8 or floats in `data_range`, labels int32
  [devices, b].

  Args:
    network: called as network(value, mode).
    goal: the objective; static.
    optimizer: as `optimizers.create` makes it.
    augmentation: says how images vary.
    epsilon: radius of the input box, before the goal changes it.
    seed: of augmentation and of random goals.
    epoch_of: step -> epoch on the schedules' clock.
    regularize: what is added to the loss.
    accumulate: in how many parts a device works through its share, one after
      the other; each takes that much less memory. Regularisers and batch
      normalisation then see one part at a time.
    bfloat16: whether layers multiply in bfloat16: weights, what they are
      multiplied with, and gradients. Weights are kept, and all else is
      computed, in float32.
    data_range: lowest and highest value that data can have, or None.
    together: of how many steps, one after the other, a program is made: images
      are [devices, together, b, ...], labels [devices, together, b], and
      metrics [together]. None is one step, without that axis.

  Returns:
    The step. Metrics are scalars over the whole batch: `loss`, `epsilon` (the
    largest radius that was trained on), `largest_bound` (of the outputs),
    `gradient_norm`, and the goal's accuracies.
  """
  collections = [deep_loss.COLLECTION]
  if regularize:
    collections.append(observation.COLLECTION)
  # What images are padded with: 0, or what of the range is nearest to it.
  fill = 0.0 if data_range is None else float(np.clip(0.0, *data_range))

  def loss(params, part: _Part, state: TrainState):
    """The mean loss of examples, and (batch statistics, maxima, means)."""
    epoch = epoch_of(state.step)
    key = jax.random.key(seed)
    if bfloat16:
      params = _kernels_in_bfloat16(params)
    variables = state.variables | {"params": params}
    batch = batch_norm.batch_statistics(
        network, variables, part.images, over=AXIS
    )
    variables[batch_norm.BATCH] = batch
    fixed = lax.stop_gradient(variables)
    context = Context(
        forward=lambda value, mode: network.apply(fixed, value, mode),
        labels=part.labels,
        epoch=epoch,
        key=part.goal_keys,
        batch_key=batch_key(seed, state.step),
        data_range=data_range,
        images=part.images,
    )
    lower, upper = ball(part.images, epsilon, data_range)
    value = goal.abstract(lower, upper, context)
    with named_by_layers():
      output, sown = network.apply(
          variables | dropout.training_state(epoch, part.dropout_keys),
          value,
          Mode.TRAIN,
          # One key for the whole batch: abstract layers draw for all alike.
          rngs={RNG: step_key(key, state.step, _ABSTRACT)},
          mutable=collections,
      )
    losses = goal.loss(output, part.labels, context)
    losses = deep_loss.mix_in(losses, sown, epoch)
    losses = losses + _regularization(regularize, sown, epoch)
    maxima = {
        "epsilon": _largest_radius(plain(value)),
        "largest_bound": _largest_bound(plain(output)),
    }
    accuracies = goal.accuracies(output, part.labels, context)
    means = {name: jnp.mean(holds) for name, holds in accuracies.items()}
    return jnp.mean(losses), (batch, maxima, means)

  def local_step(state: TrainState, images: Array, labels: Array):
    keys = functools.partial(
        example_keys, jax.random.key(seed), state.step, size=labels.shape[0]
    )
    images = augment(
        images, keys(purpose=_AUGMENT), augmentation.crop_padding,
        augmentation.flip, fill,
    )
    share = _Part(
        to_floats(images), labels, keys(purpose=_GOAL),
        keys(purpose=_DROPOUT),
    )
    with precision.for_losses(True):
      (value, (batch, maxima, means)), gradient = _accumulated(
          lambda part: jax.value_and_grad(loss, has_aux=True)(
              state.params, part, state
          ),
          share,
          accumulate,
      )
    gradient = _mean_of_devices(gradient)
    metrics = lax.pmax(maxima, AXIS)
    metrics |= _mean_of_devices({"loss": value} | means)
    metrics["gradient_norm"] = global_norm(gradient)
    updates, optimizer_state = optimizer.update(
        gradient, state.optimizer, state.params
    )
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        optimizer=optimizer_state,
        statistics=batch_norm.moving_mean(
            state.statistics, _mean_of_devices(batch)
        ),
    )
    return state, metrics

  def local_steps(state: TrainState, images: Array, labels: Array):
    return lax.scan(
        lambda state, batch: local_step(state, *batch), state, (images, labels)
    )

  return jax.pmap(
      local_step if together is None else local_steps,
      axis_name=AXIS,
      in_axes=(None, 0, 0),
      out_axes=None,
      donate_argnums=0,
  )


def _mean_of_devices(tree):
  """`lax.pmean`; XLA would copy all of it where there is one device."""
  return lax.pmean(tree, AXIS) if lax.psum(1, AXIS) > 1 else tree


def _kernels_in_bfloat16(params: dict) -> dict:
  """The weights that are multiplied with; biases and scales stay."""
  return jax.tree.map(
      lambda w: w.astype(jnp.bfloat16) if w.ndim > 1 else w, params
  )


def _accumulated(function: Callable, share: _Part, count: int):
  """The value and gradient of a share, from those of `count` parts of it.

  Everything is averaged over the parts but the maxima.
  """
  if count == 1:
    return function(share)
  parts_of = jax.tree.map(
      lambda x: x.reshape((count, -1) + x.shape[1:]), share
  )

  def add(total, part):
    (value, (batch, maxima, means)), gradient = function(part)
    averaged = jax.tree.map(
        lambda x: x / count, (value, batch, means, gradient)
    )
    sums = jax.tree.map(jnp.add, total[0], averaged)
    return (sums, jax.tree.map(jnp.maximum, total[1], maxima)), None

  (value, (batch, maxima, means)), gradient = jax.eval_shape(
      function, jax.tree.map(lambda x: x[0], parts_of)
  )
  zeros = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype),
      ((value, batch, means, gradient), maxima),
  )
  ((value, batch, means, gradient), maxima), _ = lax.scan(add, zeros, parts_of)
  return (value, (batch, maxima, means)), gradient


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
