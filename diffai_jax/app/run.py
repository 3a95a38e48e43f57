"""A run: a trained network and all that is known of it, and loading one."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from diffai_jax.app import config_dict, console, network_file, workfolder
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.app.job import Job
from diffai_jax.app.own_network import is_own
from diffai_jax.data import DATASETS
from diffai_jax.data.datasets import KINDS
from diffai_jax.networks import NETWORKS
from diffai_jax.nn.batch_norm import POPULATION
from diffai_jax.storage import store
from diffai_jax.storage.paths import checked_path
from diffai_jax.training import checkpoints, metrics
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import UsageError, shown
from diffai_jax.verification import certifications

OWN = "own"  # The certification with a run's own settings.


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
  """A trained network and what is known of it.

  Attributes:
    network: called as network.apply(variables, value, mode).
    variables: "params", the weights, and of batch normalisation "population".
    config: every setting that it was trained with, such as config.epsilon.
    metrics: rows of training in order, each with `step`, `epoch`, `loss` and
      what else was measured; pandas.DataFrame(run.metrics) is a table.
    certifications: by name, what certification.json says in the work folder:
      "own" with the run's own settings, others by the names of their folders.
    data_range: lowest and highest value that data can have, or None.
    input_shape: of one image.
    step: number of training steps behind the weights.
  """

  network: nn.Module
  variables: dict
  config: config_dict.FrozenConfigDict
  metrics: Sequence[Mapping[str, float]]
  certifications: Mapping[str, Mapping]
  data_range: tuple[float, float] | None
  input_shape: tuple[int, ...]
  step: int

  def __repr__(self) -> str:
    weights = sum(x.size for x in jax.tree.leaves(self.variables["params"]))
    parts = [
        str(self.config.network), f"{weights:,} weights",
        f"images {list(self.input_shape)}", f"step {self.step:,}",
        f"epsilon {self.config.epsilon:g}",
    ]
    until = [row for row in self.metrics if row["step"] <= self.step]
    last = until[-1] if until else {}
    parts += [
        f"{name} {last[name]:.3f}"
        for name in ("accuracy", "verified", "test_accuracy", "test_verified")
        if name in last
    ]
    return f"Run({', '.join(parts)})"


def of_state(
    network: nn.Module, state: TrainState, config: Mapping,
    rows: Sequence[Mapping], found: Mapping, data_range, input_shape,
) -> Run:
  """The run whose training ended in that state, its arrays on one device."""
  variables = {"params": state.params}
  if state.statistics:
    variables[POPULATION] = state.statistics
  return Run(
      network, jax.tree.map(jnp.asarray, jax.device_get(variables)),
      config_dict.FrozenConfigDict(config), rows, found, data_range,
      tuple(input_shape), int(state.step),
  )


def load(
    folder: str | os.PathLike, *, step: int | None = None,
    network: nn.Module | None = None,
) -> Run:
  """The run in a work folder, as `train` and `python -m diffai_jax.main` make it.

  Args:
    folder: the work folder.
    step: of the checkpoint to be taken; None is the newest one that is whole.
    network: the Flax module that was trained. Needed only for modules of one's
      own: those made of `diffai_jax.nn` are in the folder.

  Returns:
    The run, with the weights of that checkpoint.

  Raises:
    UsageError: in one line, if there is no run or no such checkpoint, a file is
      damaged, or the network is another one.

  >>> import tempfile
  >>> import numpy as np
  >>> import diffai_jax as dj
  >>> random = np.random.default_rng(0)
  >>> images, labels = random.random((40, 3)), random.integers(0, 2, 40)
  >>> network = dj.nn.Sequential([dj.nn.Linear(4), dj.nn.ReLU(), dj.nn.Linear(2)])
  >>> with tempfile.TemporaryDirectory() as folder:
  ...   run = dj.train(network, (images, labels), goal="Box", epochs=1,
  ...                  workdir=folder, progress=False)
  ...   again = dj.load(folder)
  >>> again.network == network
  True
  >>> bool((again.variables["params"]["layers_0"]["kernel"]
  ...       == run.variables["params"]["layers_0"]["kernel"]).all())
  True
  """
  folder = checked_path(os.fspath(folder), "folder")
  config = workfolder.read_config(folder)
  if config is None:
    raise UsageError(
        f"{folder} holds no run (no {workfolder.CONFIG_FILE}); give the work"
        f" folder of one"
    )
  stored = _stored(folder, config, network)
  shape = stored.input_shape
  if stored.network is None:
    raise UsageError(
        f"{folder} has a network {shown(config['network'])}, which is not made of"
        f" diffai_jax's layers alone; give it: load(folder, network=...)"
    )
  # Shapes alone; the weights are the checkpoint's.
  like = jax.eval_shape(
      lambda: create_state(stored.network, optax.identity(), shape, 0)
  )
  restored = checkpoints.restore(
      checkpoints.resolve(_checkpoint(folder, step)), like, weights_only=True
  )
  if restored.warning:
    console.print_warning(restored.warning)
  return of_state(
      stored.network, restored.state, config, metrics.read(folder),
      _certifications(folder), stored.data_range, shape,
  )


def _checkpoint(folder: str, step: int | None) -> str:
  """The path of a checkpoint, as `checkpoints.resolve` takes it."""
  parent = os.path.join(folder, checkpoints.FOLDER)
  known = [os.path.basename(path) for path in checkpoints.steps_of(parent)]
  if step is None or str(step) in known:
    return parent if step is None and known else (
        folder if step is None else os.path.join(parent, str(step))
    )
  raise UsageError(
      f"{folder} has no checkpoint of step {shown(step)}; it has"
      f" {', '.join(known) or 'none'}"
  )


def _stored(
    folder: str, config: Mapping, network: nn.Module | None
) -> network_file.Stored:
  """The network of a work folder, and the data that it takes."""
  stored = network_file.read(folder)
  if stored is None:  # Of the command line: named in the config.
    data = str(config.get("dataset"))
    known = data in DATASETS or data.partition(":")[0] in KINDS
    name = config.get("network")
    if not known or not (name in NETWORKS or is_own(name)):
      raise UsageError(
          f"{folder} has no {network_file.FILE}, and its config names no network"
          f" and dataset that are known; put that file back"
      )
    job = Job.from_config(_as_config(config))
    stored = network_file.Stored(
        job.network, job.dataset.image_shape, job.data_range
    )
  if network is not None:
    stored = dataclasses.replace(stored, network=network)
  return stored


def _as_config(values: Mapping[str, Any]) -> config_dict.ConfigDict:
  """The config that a JSON object was written of."""
  config = base_config()
  known = keys_of(config)
  for key in known:
    *groups, last = key.split(".")
    holder, given = config, values
    for group in groups:
      holder, given = holder[group], given.get(group, {})
    if last in given:
      with holder.ignore_type():
        holder[last] = given[last]
  return config


def _certifications(folder: str) -> dict[str, dict]:
  """What each certification says; damaged ones are told and left out."""
  found = {}
  for place, summary in certifications.found(folder):
    if isinstance(summary, UsageError):
      console.print_warning(str(summary))
      continue
    own = store.is_same(place, folder)
    found[OWN if own else os.path.basename(place)] = summary
  return found
