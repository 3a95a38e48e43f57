"""A config, and what it stands for."""

import dataclasses

from flax import linen as nn
import jax
import optax

from diffai_jax.app import config_dict, own_network, schedule_warning
from diffai_jax.app.data_keys import range_of
from diffai_jax.app.validation import (
    attack_words,
    epsilon_of,
    methods_of,
    validate,
)
from diffai_jax.data import Dataset
from diffai_jax.goals import Goal
from diffai_jax.kernels import platforms
from diffai_jax.networks import create, describe
from diffai_jax.objectives import objective, parse_value
from diffai_jax.storage.paths import checked_path
from diffai_jax.training import optimizers
from diffai_jax.training.cost import StepCost, step_cost, training_flops
from diffai_jax.training.state import create_state
from diffai_jax.training.step import Regularizers, Step, make_step
from diffai_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Job:
  """A config, and what it stands for.

  Attributes:
    config: checked, without references.
    dataset, network, goal: what it names.
    first_epochs: of a run that was made longer, the epochs that it began with:
      the schedules' clock keeps the pace that it had. None is config.epochs.
    data_range: lowest and highest value of the images as floats, or None.
  """

  config: config_dict.ConfigDict
  dataset: Dataset
  network: nn.Module
  goal: Goal
  first_epochs: float | None = None
  data_range: tuple[float, float] | None = (0.0, 1.0)

  @classmethod
  def from_config(cls, config: config_dict.ConfigDict) -> "Job":
    """Checks the config and builds what it names.

    Of data no example is read; of a user's own their shape and classes are.

    Raises:
      UsageError: if a value is out of range or names nothing.
    """
    data = validate(config)
    config = config.copy_and_resolve_references()
    config.network = own_network.checked_name(config.network)
    with config.ignore_type(), config.certify.ignore_type():  # Of text.
      config.epsilon = epsilon_of(config)
      config.certify.methods = methods_of(config)
      config.certify.attacks = attack_words(config)
      data_range = range_of(config)
      config.data_range = data_range or ()
      for key in ("mean", "std"):
        if config[key] is not None:
          config[key] = getattr(data, key)
    if config.checkpoint:
      config.checkpoint = checked_path(config.checkpoint, "checkpoint")
    return cls(
        config, data, _network_of(config, data), objective(config.goal),
        data_range=data_range,
    )

  def describe(self) -> str:
    """The network's listing and sizes, the objective's full text, ε, the cost.

    At its end a warning, where the schedules do not fit the run.
    """
    config = self.config
    warning = self.warning()
    return "\n".join((
        str(describe(self.network, self.dataset.image_shape)),
        f"Objective: {self.goal}",
        f"Epsilon: {config.epsilon:g}",
        f"Training step: about {self.cost()} for {config.batch_size} images",
        *([f"Warning: {warning}"] if warning else []),
    ))

  def warning(self) -> str | None:
    """A line about schedules longer or much shorter than the run, or None."""
    return schedule_warning.warning(self.config, self.goal, self.network)

  def cost(self) -> StepCost:
    """What a step with all parts of the objective costs on one device."""
    state = jax.eval_shape(lambda: create_state(
        self.network, self.optimizer(1), self.dataset.image_shape, 0
    ))
    return step_cost(
        self.make_step(self.goal, 1), state, self.config.batch_size,
        self.dataset.image_shape,
    )

  def optimizer(self, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser, on the schedules' clock."""
    return optimizers.create(
        self.config.optimizer, lambda step: self.epoch_of(step, steps_per_epoch)
    )

  def make_step(
      self, goal: Goal, steps_per_epoch: int, together: int | None = None
  ) -> Step:
    """The training step with that goal: the job's, or a part of it.

    Or `together` steps as one program, as `step.make_step` says.
    """
    return make_step(
        self.network,
        goal,
        self.optimizer(steps_per_epoch),
        self.dataset,
        self.config.epsilon,
        self.config.seed,
        lambda step: self.epoch_of(step, steps_per_epoch),
        self.regularizers,
        self.config.accumulate,
        self.config.bfloat16,
        self.data_range,
        together,
    )

  def steps_per_dispatch(self, steps_per_epoch: int) -> int:
    """How many steps go into one dispatch: the config's, or the platform's.

    An epoch's are split evenly, where the number is the platform's choice.
    """
    config = self.config
    if config.steps_per_dispatch is not None:
      return min(config.steps_per_dispatch, steps_per_epoch)
    share = config.batch_size // jax.device_count()
    most = platforms.steps_per_dispatch(
        lambda: share * training_flops(self.network, self.dataset.image_shape)
    )
    return steps_per_epoch // -(-steps_per_epoch // most)

  @property
  def regularizers(self) -> Regularizers:
    """The weights that the config gives them."""
    given = self.config.regularizers
    return Regularizers(
        parse_value(given.tightness),
        parse_value(given.relu_balance),
        given.tolerance,
    )

  def epoch_of(self, step: Array, steps_per_epoch: int) -> Array:
    """The time on the schedules' clock, in fractional epochs."""
    config = self.config
    # Whole epochs apart: XLA multiplies by 1/steps_per_epoch, and two epochs
    # would be 1.9999999 of some.
    whole, rest = step // steps_per_epoch, step % steps_per_epoch
    epochs = whole + rest / steps_per_epoch
    in_all = self.first_epochs or config.epochs
    if config.schedule_epochs is None or not in_all:
      return epochs
    return epochs * (config.schedule_epochs / in_all)


def _network_of(config: config_dict.ConfigDict, data: Dataset) -> nn.Module:
  """The network that a config names, for its dataset."""
  if own_network.is_own(config.network):
    return own_network.create(config.network, data)
  channels = len(data.mean or data.std or (0,))
  return create(
      config.network, data.num_classes,
      data.mean or (0.0,) * channels, data.std or (1.0,) * channels,
      abstract_layers=config.abstract_layers,
      dropout=parse_value(config.dropout), initializer=config.initializer,
      remat=config.remat, batch_norm=config.batch_norm,
  )
