"""How much memory a device has to spare, and what a program may take.

By default a program gets a share of what is free: the network, its results and
a compiler are in memory besides, and other programs run on the same machine.
"""

import math
import os

import jax
from jax.extend import core
import numpy as np
import psutil

from diffai_jax.kernels.platforms import inner_programs

# Of the memory that is free, what one program's buffers may take.
SHARE = 0.5
_CGROUPS = "/sys/fs/cgroup"


def budget_mb() -> int:
  """What a batch may take by default, in MiB a device: at least 1."""
  return max(1, int(SHARE * free_bytes() / 2**20))


def free_bytes() -> float:
  """Free memory of one device, of those that JAX uses here.

  Of a GPU or TPU as the device says; of CPUs the machine's, or what is left of
  the control group's, whichever is less, shared among the devices.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
  free = psutil.virtual_memory().available
  return max(0, min([free, *_left_in_groups()])) / jax.local_device_count()


def _left_in_groups(
    of: str = "/proc/self/cgroup", root: str = _CGROUPS
) -> list[int]:
  """What each control group above this process still allows, in bytes.

  Args:
    of: the file that lists this process's groups; both versions are read.
    root: where they are mounted.
  """
  try:
    with open(of, encoding="utf-8") as file:
      lines = file.read().splitlines()
  except OSError:  # Not Linux.
    return []
  left = []
  for line in lines:
    number, _, rest = line.partition(":")
    controllers, _, path = rest.partition(":")
    if number == "0":
      names, top = ("memory.max", "memory.current"), root
    elif "memory" in controllers.split(","):
      names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
      top = os.path.join(root, "memory")
    else:
      continue
    parts = [part for part in path.split("/") if part not in ("", "..")]
    # A limit of any group above counts. In a container, the own group may be
    # mounted as the root, and the path is none there.
    for end in range(len(parts) + 1):
      folder = os.path.join(top, *parts[:end])
      limit, used = (_number(os.path.join(folder, name)) for name in names)
      if limit is not None and used is not None:
        left.append(limit - used + _reclaimable(folder))
  return left


def _number(path: str) -> int | None:
  """The number in a file; None if there is none, such as "max"."""
  try:
    with open(path, encoding="utf-8") as file:
      return int(file.read())
  except (OSError, ValueError):
    return None


def _reclaimable(folder: str) -> int:
  """Bytes of files in memory that the group would give up first."""
  try:
    with open(os.path.join(folder, "memory.stat"), encoding="utf-8") as file:
      found = dict(line.split(maxsplit=1) for line in file if " " in line)
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))
  except (OSError, ValueError):
    return 0


def peak(program: core.Jaxpr) -> int:
  """Most bytes that a traced program holds at a time, its inputs left out.

  If it ran operation by operation. XLA fuses some and copies for others, so
  what it takes is of that order, and not this number.
  """
  outputs = {v for v in program.outvars if not isinstance(v, core.Literal)}
  last = {}
  for number, equation in enumerate(program.eqns):
    last.update({v: number for v in _inputs(equation)})
  held, most, sizes = 0, 0, {}
  for number, equation in enumerate(program.eqns):
    own = {v: _bytes(v.aval) for v in equation.outvars}
    sizes.update(own)
    within = max(map(peak, inner_programs(equation)), default=0)
    most = max(most, held + max(sum(own.values()), within))
    held += sum(own.values())
    for v in {*_inputs(equation), *own} - outputs:
      if last.get(v, -1) <= number:
        held -= sizes.pop(v, 0)
  return most


def _inputs(equation) -> list:
  return [v for v in equation.invars if not isinstance(v, core.Literal)]


def _bytes(aval) -> int:
  if not hasattr(aval, "shape"):
    return 0
  return math.prod(aval.shape) * np.dtype(_plain(aval.dtype)).itemsize


def _plain(dtype):
  """A random key's type is none of NumPy's: two numbers of 32 bits."""
  is_key = jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
  return np.uint64 if is_key else dtype
