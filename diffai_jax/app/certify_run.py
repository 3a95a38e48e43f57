"""Certification as a config says, from a network to the results on disk.

With several processes each of them calls the same functions, and measures its
share. Process 0 alone reads and writes the work folder, and prints.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax import processes
from diffai_jax.app import config_dict, console, report, several, workfolder
from diffai_jax.app.data_keys import range_of
from diffai_jax.app.job import Job
from diffai_jax.app.validation import attacks_of
from diffai_jax.attacks import MIFGSM
from diffai_jax.data import Examples, load
from diffai_jax.kernels.platforms import platform_name
from diffai_jax.networks import certified, certified_network
from diffai_jax.regions import Linf
from diffai_jax.storage import files, sealed, store
from diffai_jax.storage.journal import Journal
from diffai_jax.training import checkpoints
from diffai_jax.training.state import TrainState, create_state
from diffai_jax.types import UsageError, shown
from diffai_jax.verification import certification, certifications, programs
from diffai_jax.verification.attacking import CHECKED
from diffai_jax.verification.certification_input import certified_params
from diffai_jax.verification.inputs import checked
from diffai_jax.verification.measures import MeasureMargin
from diffai_jax.verification.methods import BranchAndBound, parse_all


def test_data(config: config_dict.ConfigDict) -> Examples:
  """The examples that a config certifies on.

  Raises:
    UsageError: if they cannot be read.
  """
  data = load(
      config.dataset, config.certify.split, config.data_dir, range_of(config)
  )
  count = config.certify.examples
  return Examples(data.images[:count], data.labels[:count])


def check_memory(job: Job) -> None:
  """Checks, before there is a network, that each method's bounds will fit.

  In all processes: where they do not in one of them, all of them say so.

  Raises:
    UsageError: if those of one example do not.
  """
  shape = job.dataset.image_shape
  network = certified_network(job.network, shape)
  variables = jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)))
  )
  lowest = job.data_range[0] if job.data_range else 0
  one = checked(
      np.full((1, *shape), lowest, np.float32), np.zeros(1, np.int32),
      Linf(job.config.epsilon, job.data_range),
  )
  for method in parse_all(job.config.certify.methods):
    if isinstance(method, BranchAndBound):
      continue  # It bounds as many subdomains at once as there is memory for.
    measure = MeasureMargin(network, method)
    processes.together(lambda: programs.check_memory(
        str(method), measure, variables["params"], one,
        job.config.certify.memory_mb,
    ))


def certify_checkpoint(config: config_dict.ConfigDict, workdir: str) -> None:
  """Certifies the latest checkpoint of a work folder, or config.checkpoint.

  Raises:
    UsageError: if there is no checkpoint, or it is another network's, or the
      work folder is another run's.
  """
  job = processes.together(lambda: Job.from_config(config))
  config = job.config
  several.require_same_config(config)
  if config.checkpoint:
    config.checkpoint = store.absolute(config.checkpoint)
  own = processes.by_first(lambda: workfolder.read_config(workdir))
  path = processes.by_first(lambda: _source(config.checkpoint, workdir, own))
  source = checkpoints.run_of(path)
  processes.by_first(
      lambda: workfolder.require_same_network(source, config)
  )
  (data,) = several.loaded(lambda: test_data(config))
  like = create_state(
      job.network, job.optimizer(1), job.dataset.image_shape, config.seed
  )
  restored = checkpoints.restore_for_all(
      lambda: checkpoints.resolve(path), like, weights_only=True
  )
  if restored.warning and processes.is_first():
    console.print_warning(restored.warning)
  is_latest = processes.by_first(
      lambda: restored.path == checkpoints.resolve(source)[0]
  )
  with workfolder.held(workdir):
    if own is None:
      processes.by_first(lambda: workfolder.claim(workdir, config))
    certify_state(
        job, restored.state, data, workdir, source, is_latest or own is None
    )


def _source(given: str | None, workdir: str, own: dict | None) -> str:
  """The path of what is certified, as `checkpoints.resolve` takes it.

  Raises:
    UsageError: if the work folder is another run's.
  """
  if not given:
    return workdir
  if own is None:
    return given
  # A run that began with the weights of another names them, too.
  began_with = own.get("checkpoint")
  trained_here = bool(
      checkpoints.steps_of(os.path.join(workdir, checkpoints.FOLDER))
  )
  if trained_here and given == began_with:
    return workdir
  runs = [workdir]
  if began_with and not trained_here:
    runs.append(checkpoints.run_of(began_with))
  source = checkpoints.run_of(given)
  if not any(store.is_same(source, run) for run in runs):
    raise UsageError(
        f"{workdir} belongs to another run than checkpoint {shown(given)};"
        f" choose another --workdir for its certification"
    )
  return given


def certify_state(
    job: Job,
    state: TrainState,
    data: Examples,
    workdir: str,
    source: str | None = None,
    is_own: bool = True,
) -> None:
  """Measures a state, writes the results and prints them.

  What was found already, by a process that was killed or with the same settings,
  is not measured again.

  Args:
    job: what to certify with.
    state: of training.
    data: what to certify on.
    workdir: the work folder, which is some run's.
    source: the run that the state is of; None is the work folder's.
    is_own: whether the state is the one that the work folder stands for, and
      not an earlier one.

  Raises:
    UsageError: if a method or the attack failed, after the results of the
      others are written; or if nothing can be written.
  """
  config = job.config
  # What is certified is the folded network, without batch normalisation.
  network, params = certified(
      job.network, state.variables, job.dataset.image_shape
  )
  # Folding rounds as a machine does: the network is process 0's.
  params = certified_params(processes.from_first(params))
  about = _about(job, state, params, data, source or workdir, workdir)
  given = certifications.settings(json.loads(config.to_json()))
  own = certifications.settings(
      processes.by_first(lambda: workfolder.read_config(workdir)) or {}
  )
  if not is_own:
    given["step"] = int(state.step)
  name = certifications.name_of(given, own)
  try:
    folder, there = processes.by_first(lambda: _place(workdir, name, about))
    if there is None:
      there = _measure(job, network, params, data, folder, about)
    else:
      console.console.print(f"{folder} has this certification already")
    processes.by_first(lambda: report.write(workdir))
  except OSError as error:
    raise UsageError(
        f"results cannot be written: {error.filename or workdir}:"
        f" {files.reason(error)}; what was measured is kept as far as possible,"
        f" and the same command goes on from there"
    ) from None
  processes.by_first(lambda: report.print_results(workdir))
  if there["failed"]:
    first, reason = next(iter(there["failed"].items()))
    more = len(there["failed"]) - 1
    raise UsageError(
        f"{first} gave no results: {reason}"
        + (f" (and {more} more)" if more else "")
    )


def _place(workdir: str, name: str, about: dict) -> tuple[str, dict | None]:
  """The folder of a certification, and its summary if it is there already.

  Raises:
    UsageError, OSError: if results cannot be written there.
  """
  folder = certifications.place(workdir, name, about["identity"])
  certifications.check_place(folder)
  return folder, certifications.whole(folder, about["identity"])


def _measure(
    job: Job, network, params: dict, data: Examples, folder: str, about: dict
) -> dict:
  """Certifies with a journal in the folder, and saves; returns the summary."""
  config = job.config
  attacks = attacks_of(config)
  phases = 1 + len(attacks) + len(config.certify.methods)
  finished, doing = [], {"done": 0}
  proofs = None
  if config.certify.proofs:
    proofs = os.path.join(folder, "proofs", about["identity"][:8])
  journal = processes.together(lambda: _journal(folder, about))
  try:
    with console.progress_bar(
        "certifying", phases * len(data), "images"
    ) as show:

      def progress(phase: str, done: int) -> None:
        if phase.endswith(CHECKED):  # Of a few points, and short.
          return
        if phase not in finished:
          finished.append(phase)
        doing.update(done=(len(finished) - 1) * len(data) + done)
        show(doing["done"], phase)

      def status(phase: str, text: str) -> None:
        show(doing["done"], f"{phase}: {text}")

      found = certification.certify(
          network,
          params,
          data,
          Linf(config.epsilon, job.data_range),
          methods=tuple(config.certify.methods),
          attacks=attacks,
          memory_mb=config.certify.memory_mb,
          skip_decided=config.certify.skip_decided,
          progress=progress,
          journal=journal,
          status=status,
          proofs=proofs,
      )

    def save() -> dict:
      certification.save(found, folder, about, params)
      if not found.failed:
        journal.remove()
      return certification.load_summary(folder)

    return processes.by_first(save)
  finally:
    journal.close()


def _journal(folder: str, about: dict) -> Journal:
  """The journal of a certification, which is process 0's."""
  if not processes.is_first():
    return Journal()
  here = {
      "identity": about["identity"],
      "jax": jax.__version__,
      "platform": platform_name(),
  }
  path = os.path.join(folder, certifications.JOURNAL_FILE)
  return Journal(path, sealed.digest_of(here))


def _about(
    job: Job,
    state: TrainState,
    params: dict,
    data: Examples,
    source: str,
    workdir: str,
) -> dict:
  """What the JSON says before the results; `identity` is of what decides them."""
  config = job.config
  decides = {
      "network": config.network,
      "abstract_layers": config.abstract_layers,
      "dataset": config.dataset,
      "epsilon": config.epsilon,
      "split": config.certify.split,
      "first_examples": config.certify.examples,
      "methods": list(config.certify.methods),
      "skip_decided": config.certify.skip_decided,
      **({"proofs": True} if config.certify.proofs else {}),
      "attack": config.certify.attack.to_dict(),
      "step": int(state.step),
      "weights_sha256": sealed.digest_of_arrays(
          jax.tree.leaves(jax.device_get(params))
      ),
      "images_sha256": sealed.digest_of_arrays([data.images, data.labels]),
  }
  if list(config.certify.attacks) != [str(MIFGSM())]:  # That alone is `attack`.
    decides["attacks_in_turn"] = [str(attack) for attack in attacks_of(config)]
  checkpoint = os.path.join(checkpoints.FOLDER, str(int(state.step)))
  if not store.is_same(source, workdir):
    checkpoint = os.path.join(source, checkpoint)
  dtype = jnp.result_type(float, *jax.tree.leaves(params))
  return decides | {
      "source": checkpoint,
      "arithmetic": f"{dtype.name} on {platform_name()}",
      "identity": sealed.digest_of(decides),
  }
