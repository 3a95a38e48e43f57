"""What a process of `test_exchange` does: argument 1 says how it ends."""

import os
import signal
import sys
import time

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from diffai_jax import processes
from diffai_jax.types import UsageError


def _fails(text: str, kind: type):
  def function():
    raise kind(text)

  return function


def _raised(call, function) -> str:
  try:
    call(function)
  except Exception as error:
    return f"{type(error).__name__}: {error}"
  return "nothing"


def _talk() -> None:
  """Everything that processes tell each other."""
  index, count = processes.index(), processes.count()
  assert count == 2 and index == int(os.environ["JAX_PROCESS_ID"])
  assert index == jax.process_index() and count == jax.process_count()
  assert processes.is_first() == (index == 0)

  third = np.float64(1) / 3  # Has no float32.
  found = processes.gathered({
      "a": np.array([third, index]), "b": jnp.full((2, 0), 1, jnp.bfloat16),
      "c": np.int64(2**40 + index), "d": np.array([index == 0]),
  })
  np.testing.assert_array_equal(found["a"], [[third, 0], [third, 1]])
  assert found["a"].dtype == np.float64
  assert (found["b"].shape, found["b"].dtype) == ((2, 2, 0), jnp.bfloat16)
  assert found["c"].tolist() == [2**40, 2**40 + 1]
  assert found["d"].tolist() == [[True], [False]]

  big = np.random.default_rng(index).random(3_000_000)
  same = processes.from_first({"x": big})["x"]
  np.testing.assert_array_equal(same, np.random.default_rng(0).random(3_000_000))

  assert processes.agreed(10 - 7 * index) == 10
  assert processes.agreed(-10 + 7 * index) == -3
  value = processes.by_first(lambda: {"of": index, "third": third})
  assert value == {"of": 0, "third": third}
  assert processes.share(7) == (slice(0, 3), slice(3, 7))[index]

  assert processes.together(lambda: index) == index
  lone = _fails("no room", OSError) if index else lambda: 1
  wanted = "OSError: no room" if index else (
      "UsageError: process 1 of 2: no room"
  )
  assert _raised(processes.together, lone) == wanted
  wrong = UsageError if index else ValueError
  assert _raised(processes.together, _fails(f"{index}", wrong)) == (
      "UsageError: 1" if index else "ValueError: 0"
  )
  assert _raised(processes.by_first, _fails("bad", UsageError)) == (
      "UsageError: bad"
  )
  try:
    processes.by_first(lambda: open("/nowhere/file"))
  except FileNotFoundError as error:
    assert error.filename == "/nowhere/file"
  odd = _raised(processes.by_first, _fails("a bug", ZeroDivisionError))
  assert odd == (
      "UsageError: ZeroDivisionError: a bug" if index
      else "ZeroDivisionError: a bug"
  )


def _stop() -> None:
  """A request of one process is seen by both after the same step."""
  step = 0
  stop = processes.Stop(
      lambda: 15 if processes.index() and step >= 5 else None, behind=2
  )
  for step in range(1, 20):
    if stop():
      break
  assert (step, stop.signal) == (7, 15)
  late = processes.Stop(lambda: 10 + processes.index(), behind=3)
  assert not late() and late.at_end() == 11


def main() -> None:
  """Connects, talks, and ends as it is told."""
  how = sys.argv[1]
  processes.connect("auto")
  processes.connect("auto")
  if how == "whole":
    _talk()
    _stop()
    processes.disconnect()
    assert processes.count() == 1
    print("done")
    return
  watch = processes.current()

  def tell(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)

  ends = processes.index() == int(how[-1])
  if how.startswith("killed") and ends:
    os.kill(os.getpid(), signal.SIGKILL)
  if how.startswith("fails") and ends:
    watch.fail("the disk is full", 3, tell)
  if how.startswith("both"):
    time.sleep(0.3 * ends)
    watch.fail("the same", 4, tell)
  # A collective that the other process never joins.
  values = np.ones(jax.local_device_count())
  add = jax.pmap(lambda x: lax.psum(x, "devices"), axis_name="devices")
  try:
    add(values)[0].block_until_ready()
  except Exception as error:
    watch.fail(f"gloo: {error}", 5, tell, unexpected=True)


if __name__ == "__main__":
  main()
