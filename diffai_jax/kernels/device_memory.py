"""How much memory a device has to spare, and what a program may take of it."""

import os

import jax
import psutil

from diffai_jax.kernels import platforms

_CGROUPS = "/sys/fs/cgroup"


def budget_mb() -> int:
  """What a batch may take by default, in MiB a device: at least 1.

  A share of what is free (`Platform.memory_share`): the network, its results and
  a compiler are in memory besides, and other programs run on the same machine.
  """
  return max(1, int(platforms.here().memory_share * free_bytes() / 2**20))


def free_bytes() -> float:
  """Free memory of one device, of those that JAX uses here.

  As the device says, where it does: GPUs and TPUs know their limit and what of it
  is in use; of several the least. Of CPUs the machine's, or what is left of the
  control group's, whichever is less, shared among the devices of all processes,
  which may be on this machine.
  """
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("bytes_limit" in one for one in stats):
    return max(0, min(
        one["bytes_limit"] - one.get("bytes_in_use", 0) for one in stats
    ))
  free = psutil.virtual_memory().available
  return max(0, min([free, *_left_in_groups()])) / jax.device_count()


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
