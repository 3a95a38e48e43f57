"""Whether results depend on how many devices and processes share the work.

  python -m benchmarks.distributed
  JAX_ENABLE_X64=1 python -m benchmarks.distributed

A small network with batch normalisation learns cropped digits by points that
are attacked and boxes in random places, 50 steps, and is certified. That is
done by 1, 2, 4 and 8 devices, which the CPU stands for, of one process and of
two that talk over loopback. The table says how far the losses are from those of
one device, relative, and whether the same images are verified; the exit code is
1 if they are further than rounding explains, or any image differs. It says
nothing about speed: all of them share the same cores.

The optimiser is SGD. Adam makes steps of its learning rate's size of what
rounding leaves of a gradient that is 0, that of biases before batch
normalisation; nothing but the moving means depends on those.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

from absl import app, flags, logging
import jax
import numpy as np

from benchmarks import tables
from diffai_jax import processes
from diffai_jax.app.config import base_config
from diffai_jax.app.job import Job
from diffai_jax.data import Examples, batches, load
from diffai_jax.networks import certified, convnet
from diffai_jax.regions import Linf
from diffai_jax.training.state import create_state
from diffai_jax.verification import certification
from diffai_jax.verification.certification_input import certified_params

_ONE = flags.DEFINE_string("one", None, "one case, in its own processes")
_STEPS = flags.DEFINE_integer("steps", 50, "of training")
_ONLY = flags.DEFINE_list(
    "only", None, "cases DEVICESxPROCESSES, such as 1x1,8x2; else all"
)

_CASES = tuple(
    (devices, count) for count in (1, 2) for devices in (1, 2, 4, 8)
    if devices >= count
)
_METHODS = ("Box", "HBox")
_MOST_SECONDS = 3600


@dataclasses.dataclass(frozen=True)
class Found:
  """What a case has found.

  Attributes:
    losses: of every step.
    verified: the images that each method verifies, by its name.
    seconds: of everything.
  """

  losses: list[float]
  verified: dict[str, list[int]]
  seconds: float


def measured() -> Found:
  """Trains and certifies, as one of the processes."""
  start = time.monotonic()
  config = base_config("digits")
  config.goal = "Mix(PGD(2), Sample(0.5, Uniform, Box), 0.5)"
  config.augment.crop_padding = 1
  config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.05
  config.batch_size = 64
  job = dataclasses.replace(Job.from_config(config), network=convnet(
      10, (0.3,), (0.4,), ((8, 3, 2), (8, 3, 1)), 1, (24,), batch_norm=True
  ))
  data = load("digits", "train")
  per_epoch = len(data) // config.batch_size
  state = create_state(
      job.network, job.optimizer(per_epoch), job.dataset.image_shape,
      config.seed,
  )
  step = job.make_step(job.goal, per_epoch)
  stream = batches(data, config.batch_size, config.seed)
  devices, losses = jax.local_device_count(), []
  for _ in range(_STEPS.value):
    images, labels = next(stream)
    shape = devices, len(labels) // devices
    state, metrics = step(
        state, images.reshape(shape + images.shape[1:]), labels.reshape(shape)
    )
    # Which waits: devices that a CPU stands for must not run ahead.
    losses.append(float(metrics["loss"]))
  network, params = certified(
      job.network, state.variables, job.dataset.image_shape
  )
  test = load("digits", "test")
  found = certification.certify(
      network, certified_params(jax.device_get(params)),
      Examples(test.images[:203], test.labels[:203]),
      Linf(config.epsilon, job.data_range), methods=_METHODS,
      attack=certification.Attack(steps=5),
  )
  verified = {
      name: np.flatnonzero(found.verified[name]).tolist() for name in _METHODS
  }
  return Found(losses, verified, time.monotonic() - start)


def _work(place: str) -> None:
  """Measures in this process, and prints what is found if it is the first."""
  processes.connect(place)
  found = measured()
  first = processes.is_first()
  processes.disconnect()
  if first:
    print(json.dumps(dataclasses.asdict(found)))


def _run(devices: int, count: int) -> Found:
  """A case, in so many processes of their own."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
  flag = f"--xla_force_host_platform_device_count={devices // count}"
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2",
      "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}",
  }
  started = [
      subprocess.Popen(
          [sys.executable, "-m", "benchmarks.distributed",
           f"--steps={_STEPS.value}",
           f"--one=127.0.0.1:{port},{count},{index}"],
          stdout=subprocess.PIPE, text=True, env=environment,
      )
      for index in range(count)
  ]
  try:
    printed = [one.communicate(timeout=_MOST_SECONDS)[0] for one in started]
  finally:
    for one in started:
      one.kill()
  if any(one.returncode for one in started):
    raise app.UsageError(f"{devices} devices of {count} processes failed")
  return Found(**json.loads(printed[0].splitlines()[-1]))


def main(_) -> None:
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    _work(_ONE.value)
    return
  rounding = 1e-12 if jax.config.jax_enable_x64 else 1e-5
  cases = _CASES
  if _ONLY.value:
    cases = [tuple(map(int, text.split("x"))) for text in _ONLY.value]
  first, rows, good = None, [], True
  for devices, count in cases:
    found = _run(devices, count)
    first = first or found
    wanted = np.array(first.losses)
    away = np.max(np.abs(np.array(found.losses) - wanted) / np.abs(wanted))
    same = found.verified == first.verified
    good = good and same and away <= rounding
    rows.append((
        f"{devices}", f"{count}", f"{away:.1e}", "same" if same else "others",
        *(f"{len(found.verified[name])}" for name in _METHODS),
        f"{found.losses[-1]:.6f}", f"{found.seconds:.0f}",
    ))
    print(rows[-1], flush=True)
  print(tables.table(
      ("devices", "processes", "losses differ by", "verified", *_METHODS,
       "last loss", "seconds"), rows,
  ))
  sys.exit(0 if good else 1)


if __name__ == "__main__":
  app.run(main)
