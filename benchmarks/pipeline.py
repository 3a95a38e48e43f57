r"""What training's loop costs beside its steps.

  python -m benchmarks.pipeline --json=FILE

"bare" is the compiled step on one batch that is on the device, called again and
again with nothing between. "loop" is what the command does: `train.take_steps`
with the batches of each epoch, metrics as numbers, rows in a work folder, and a
progress bar on a terminal (which is the null device). "thread" is the same loop
where a thread prepares and transfers batches as on accelerators, and with
--ways=loop,thread,groups "groups" where --together steps go in one dispatch; on
CPUs both are left out of "loop" because they gain nothing there.

All take turns. A run is as many steps as take --seconds, from the first dispatch
to the last row; what a loop does before and after is not counted. "share" is a
loop's examples a second over the bare step's, of the least times and of the
medians. "host" is what the thread that dispatches computes for a step: its own
time on a core, whatever else the machine does.

Images are random, of the datasets' sizes: what they show does not matter here.
"""

from collections.abc import Callable
import dataclasses
import functools
import os
import tempfile
import time

from absl import app, flags, logging
import jax
import numpy as np
from rich.console import Console

from benchmarks import tables, timing
from diffai_jax.app import console, train
from diffai_jax.app.job import Job
from diffai_jax.data import Examples
from diffai_jax.kernels import platforms, xla
from diffai_jax.training.metrics import MetricsWriter
from diffai_jax.training.state import TrainState, create_state

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "networks; all by default")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "timed runs of each")
_SECONDS = flags.DEFINE_float("seconds", 2.5, "of each run, about")
_WAYS = flags.DEFINE_list("ways", ["loop", "thread"], "beside the bare step")
_TOGETHER = flags.DEFINE_integer("together", 11, "steps of a group")

# Config, and how many images are trained on.
ENTRIES = {
    "digits ConvMed": ("quickstart.py", 1437),
    "MNIST ConvSmall": ("convsmall.py:mnist", 60000),
}
_GOAL = "Mix(Point, Box, 0.5)"


class _Kept(Job):
  """A job whose steps are compiled once."""

  @functools.lru_cache(maxsize=None)
  def _step(self, together):
    return super().make_step(self.goal, 1000, together)

  def make_step(self, goal, steps_per_epoch, together=None):
    return self._step(together)

  __hash__ = object.__hash__


class _Entry:
  """One network: its job, its data, and a state that goes from run to run."""

  def __init__(self, config: str, examples: int):
    loaded = tables.load_config(config)
    loaded.goal, loaded.schedule_epochs = _GOAL, None
    loaded.optimizer.milestones = ()
    job = Job.from_config(loaded)
    self.job = _Kept(**{
        field.name: getattr(job, field.name)
        for field in dataclasses.fields(job)
    })
    random = np.random.default_rng(0)
    shape = (examples, *job.dataset.image_shape)
    self.data = Examples(
        random.integers(0, 256, shape, dtype=np.uint8),
        random.integers(0, job.dataset.num_classes, examples, dtype=np.int32),
    )
    self.batch_size = loaded.batch_size
    self._state = create_state(
        job.network, job.optimizer(1000), job.dataset.image_shape, 0
    )

  def _begin(self) -> TrainState:
    """The state at step 0."""
    return dataclasses.replace(
        self._state, step=jax.tree.map(lambda x: 0 * x, self._state.step)
    )

  def bare(self, steps: int) -> tuple[float, float]:
    """Seconds a step, and of them the host's."""
    step, state = self.job.make_step(None, 0), self._begin()
    devices = jax.local_device_count()
    batch = jax.block_until_ready(jax.tree.map(
        lambda x: jax.device_put(
            x[: self.batch_size].reshape(devices, -1, *x.shape[1:])
        ),
        (self.data.images, self.data.labels),
    ))
    apart = not platforms.queued_dispatches()  # Steps must not overlap.
    start, host = time.perf_counter(), time.thread_time()
    for _ in range(steps):
      state, metrics = step(state, *batch)
      if apart:
        jax.block_until_ready(metrics)
    jax.block_until_ready((state, metrics))
    self._state = state
    wall, host = time.perf_counter() - start, time.thread_time() - host
    return wall / steps, host / steps

  def loop(self, steps: int, together: int = 1) -> tuple[float, float]:
    """Seconds a step, and of them the host's."""
    config = self.job.config
    config.epochs = steps / (len(self.data) // self.batch_size)
    config.steps_per_dispatch = together
    moments = []

    def mark() -> bool:
      moments.append((time.perf_counter(), time.thread_time()))
      return False

    with (
        tempfile.TemporaryDirectory() as folder,
        MetricsWriter(folder, 1) as writer,
        console.progress_bar("training", steps, "steps") as show,
    ):

      def report(number: int, row: dict) -> None:
        writer.write(number, row)
        show(number, train.note(row))
        if number == steps:
          mark()

      self._state = train.take_steps(
          self.job, self.data, self._begin(), report, stopped=mark
      )
    # From the first dispatch to the last row, which comes after the last moment
    # that the loop asked whether it is stopped, or just before it.
    wall, host = (e - b for e, b in zip(moments[-1], moments[0]))
    # Those of the first dispatch are over by then if steps are waited for.
    waited = 0 if platforms.queued_dispatches() else together
    return wall / (steps - waited), host / (steps - waited)


def _with_thread(loop: Callable) -> tuple[float, float]:
  """The loop as it is where the device has a memory of its own."""
  own = platforms.here()
  threaded = dataclasses.replace(
      own, memory_apart=True, batches_ahead=platforms.GPU.batches_ahead
  )
  platforms.here = lambda: threaded
  try:
    return loop()
  finally:
    platforms.here = lambda: own


def measure(name: str) -> dict:
  """What the docstring says, for one network."""
  entry = _Entry(*ENTRIES[name])
  entry.bare(2)
  steps = max(40, int(_SECONDS.value / entry.bare(20)[0]))
  steps -= steps % _TOGETHER.value
  known = {
      "loop": lambda: entry.loop(steps),
      "thread": lambda: _with_thread(lambda: entry.loop(steps)),
      "groups": lambda: entry.loop(steps, _TOGETHER.value),
  }
  ways = {"bare": lambda: entry.bare(steps)} | {
      way: known[way] for way in _WAYS.value
  }
  times = {way: [] for way in ways}
  for way in ways.values():  # Compiles.
    way()
  for number in range(_ROUNDS.value):
    # Who comes first in a round differs: caches, other programs.
    order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
    for way in order:
      times[way].append(ways[way]())
  found = {
      way: timing.milliseconds([wall for wall, _ in pairs])
      | {"host_ms": 1000 * min(host for _, host in pairs)}
      for way, pairs in times.items()
  }
  bare = found["bare"]
  for row in found.values():
    row["share"] = bare["ms"] / row["ms"]
    row["median_share"] = bare["median_ms"] / row["median_ms"]
    row["examples_per_second"] = 1000 * entry.batch_size / row["ms"]
  return {
      "network": name, "batch": entry.batch_size, "steps": steps,
      "devices": jax.device_count(), "ways": found,
  }


HEADER = (
    "network", "batch", "", "ms a step", "median", "examples/s", "share",
    "of medians", "host, ms",
)


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  tables.check_names(_ONLY.value, ENTRIES)
  tables.check_names(_WAYS.value, ("loop", "thread", "groups"), "--ways")
  # A live bar, as at a terminal.
  null = open(os.devnull, "w", encoding="utf-8")
  console.console = Console(file=null, force_terminal=True, width=120)
  rows = []
  print(tables.table(HEADER, []), flush=True)
  for name in _ONLY.value or ENTRIES:
    rows.append(measure(name))
    for way, row in rows[-1]["ways"].items():
      print(tables.line([
          name, rows[-1]["batch"], way, f"{row['ms']:.3f}",
          f"{row['median_ms']:.3f}", f"{row['examples_per_second']:,.0f}",
          f"{row['share']:.1%}", f"{row['median_share']:.1%}",
          f"{row['host_ms']:.3f}",
      ]), flush=True)
    tables.write_json(_JSON.value, {"rows": rows})


if __name__ == "__main__":
  app.run(main)
