"""The optimiser: L2, clipping, Adam or SGD, a multi-step learning rate."""

import jax
from jax import lax
import jax.numpy as jnp
import optax

from diffai_jax.kernels.matrices import sum_of_squares
from diffai_jax.objectives import parse_value
from diffai_jax.schedules import NumberOrSchedule, Schedule, value_at
from diffai_jax.text.suggest import unknown_name
from diffai_jax.types import Array

OPTIMIZERS = ("adam", "sgd")


def global_norm(tree) -> Array:
  """Euclidean norm of all leaves together, a scalar.

  Right for entries of any size. Infinite or NaN where an entry is.
  """
  norm, unit = _scaled_norm(tree)
  return norm / unit


def _scaled_norm(tree) -> tuple[Array, Array]:
  """The norm of tree · unit, and the unit: a power of two.

  The square of a gradient above 1e19 would overflow float32, that of one below
  1e-23 vanish. Where neither can have happened the unit is 1.
  """
  leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]
  squares = sum_of_squares(leaves)

  def plain():
    return jnp.sqrt(squares), jnp.ones_like(squares)

  def careful():
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in leaves]))
    unit = jnp.where(largest < 1, 2.0**80, 2.0**-80).astype(squares.dtype)
    scaled = sum(jnp.sum(jnp.square(leaf * unit)) for leaf in leaves)
    return jnp.sqrt(scaled), unit

  ordinary = (squares > 2.0**-60) & (squares < 2.0**100)
  return lax.cond(ordinary, plain, careful)


def clip_by_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales updates down to a global norm of at most `max_norm`.

  `optax.clip_by_global_norm`, but right for gradients of any finite size:
  huge ones are scaled first, or max_norm / norm would underflow to 0.
  """

  def update(updates, state, params=None):
    del params
    norm, unit = _scaled_norm(updates)
    exceeds = norm > max_norm * unit
    factor = max_norm / norm
    clipped = jax.tree.map(
        lambda leaf: jnp.where(exceeds, (leaf * unit) * factor, leaf), updates
    )
    return clipped, state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def learning_rate(
    initial: NumberOrSchedule, milestones, decay: float, epoch_of
) -> optax.Schedule:
  """`initial`, multiplied by `decay` at each milestone that is reached.

  Args:
    initial: the first learning rate, or a schedule of the epoch.
    milestones: epochs, on the schedules' clock.
    decay: factor at each of them.
    epoch_of: step -> epoch on the schedules' clock.

  Returns:
    The learning rate as a function of the step.
  """
  if not milestones and not isinstance(initial, Schedule):
    return optax.constant_schedule(initial)
  piecewise = optax.piecewise_constant_schedule(
      1.0, {milestone: decay for milestone in milestones}
  )

  def rate(step):
    epoch = epoch_of(step)
    return value_at(initial, epoch) * piecewise(epoch)

  return rate


def create(config, epoch_of) -> optax.GradientTransformation:
  """The optimiser that `config.optimizer` describes.

  The L2 term is part of the loss: it is added to the gradient of every weight
  before clipping, l2·w, the gradient of l2/2·‖w‖².

  Args:
    config: with name, learning_rate, milestones, decay, momentum (of SGD), l2
      and clip_norm; numbers, or texts of schedules such as "1 - Lin(0, 1, 9)".
    epoch_of: step -> epoch on the schedules' clock.

  Raises:
    UsageError: if there is no optimiser of that name, or a text is no
      schedule.
  """
  rate = learning_rate(
      parse_value(config.learning_rate), config.milestones, config.decay,
      epoch_of,
  )
  if config.name == "adam":
    descend = optax.adam(rate)
  elif config.name == "sgd":
    descend = _scheduled(
        lambda momentum: optax.sgd(rate, momentum=momentum),
        "momentum", config.momentum, epoch_of,
    )
  else:
    raise unknown_name("optimizer", config.name, OPTIMIZERS)
  return optax.chain(
      _scheduled(
          lambda weight_decay: optax.add_decayed_weights(weight_decay),
          "weight_decay", config.l2, epoch_of,
      ),
      _scheduled(clip_by_norm, "max_norm", config.clip_norm, epoch_of),
      descend,
  )


def _scheduled(
    make, name: str, text: str | float, epoch_of
) -> optax.GradientTransformation:
  """make(value), where the value follows a schedule if the text is one."""
  value = parse_value(text)
  if not isinstance(value, Schedule):
    return make(value)
  return optax.inject_hyperparams(make)(
      **{name: lambda step: value_at(value, epoch_of(step))}
  )
