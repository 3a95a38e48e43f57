"""Everything that training changes, as one pytree."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from diffai_jax.nn.batch_norm import POPULATION
from diffai_jax.types import AXIS, Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """What a step takes and returns, and a checkpoint holds.

  Data order and random keys are functions of (seed, step), so nothing else is
  needed to go on from here.

  Attributes:
    step: number of steps taken, int32 scalar.
    params: the network's weights.
    optimizer: state of the optax transformation.
    statistics: the population's, of batch normalisation; empty without.
  """

  step: Array
  params: dict
  optimizer: optax.OptState
  statistics: dict

  @property
  def variables(self) -> dict:
    """What `network.apply` takes."""
    return {"params": self.params, POPULATION: self.statistics}


def create_state(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    seed: int,
) -> TrainState:
  """The state before the first step.

  Args:
    network: a module called as network(images, mode).
    optimizer: as `optimizers.create` makes it.
    image_shape: of one example, such as (H, W, C).
    seed: determines the initial weights.
  """
  images = jnp.zeros((1, *image_shape))
  variables = jax.jit(network.init)(jax.random.key(seed), images)
  params = variables["params"]
  state = TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      optimizer=optimizer.init(params),
      statistics=variables.get(POPULATION, {}),
  )
  # On all devices of this process, as the step returns it: or it would be
  # compiled twice.
  mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
  return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
