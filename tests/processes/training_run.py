"""What a process of `test_training` does: the command, on a tiny network.

Arguments: the file that gets the losses; where a signal comes,
"INDEX:STEP:SIGNAL" or ""; and the command's own.
"""

import os
import sys

from running import TINY

from diffai_jax import main, processes
from diffai_jax.app import report
from diffai_jax.networks import NETWORKS
from diffai_jax.training import loop


def watched(path: str, stop: str = ""):
  """`loop._check_finite` that writes losses, and where a signal may come."""
  checked = loop._check_finite
  index, step, number = map(int, stop.split(":")) if stop else (-1, -1, 0)

  def check(current, epoch, values, *args):
    if processes.is_first():
      with open(path, "a") as file:
        file.write(f"{current} {values['loss']!r}\n")
    if (processes.index(), current) == (index, step):
      os.kill(os.getpid(), number)
    return checked(current, epoch, values, *args)

  return check


def without_pictures(set_attribute) -> None:
  """Pages say what a picture shows: drawing takes longer than training."""
  set_attribute(
      report, "_image", lambda figure, description: f"<p>{description}</p>"
  )


if __name__ == "__main__":
  NETWORKS["Tiny"] = TINY
  loop._check_finite = watched(sys.argv[1], sys.argv[2])
  without_pictures(setattr)
  del sys.argv[1:3]
  main._OWN_PROCESS = True
  main.run()
