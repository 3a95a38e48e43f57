"""Which processes there are: from a text, or from what started them."""

from collections.abc import Mapping
import dataclasses
import importlib.util
import os
import re

from diffai_jax.types import UsageError, reason, shown

_KEYS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# What launchers say of a task: how many there are, which one it is, and which
# of those on its machine.
_LAUNCHERS = (
    ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK",
     "OMPI_COMM_WORLD_LOCAL_RANK"),
)
# A step that `srun` started, not the script of the batch around it.
_SLURM_STEP = "SLURM_STEP_NODELIST"
_SECONDS = 300  # That JAX may take to find its coordinator's name.
_EXPECTED = (
    "expected auto, off or ADDRESS,N,ID such as 10.0.0.1:1234,2,0: where"
    " process 0 listens, how many processes there are, and which one this is"
)


@dataclasses.dataclass(frozen=True)
class Place:
  """A process among others.

  Attributes:
    host, port: where process 0 has JAX's coordinator.
    count, index: how many processes there are, and which one this is.
    devices: numbers of those accelerators of the machine that this process
      has; empty is all that it sees.
  """

  host: str
  port: int
  count: int
  index: int
  devices: tuple[int, ...] = ()

  @property
  def address(self) -> str:
    """As JAX takes it."""
    host = f"[{self.host}]" if ":" in self.host else self.host
    return f"{host}:{self.port}"


def place_of(
    text: str, environment: Mapping[str, str] = os.environ
) -> Place | None:
  """The process that a text names, or None where there is one process.

  Args:
    text: "auto", "off" or "ADDRESS,N,ID".
    environment: what "auto" looks at.

  Raises:
    UsageError: if the text is none of that, or the environment contradicts
      itself.
  """
  word = text.strip()
  if word.lower() == "off":
    return None
  if word.lower() != "auto":
    return _several(_from_text(word))
  return _several(_from_environment(environment))


def _several(place: Place | None) -> Place | None:
  return place if place is not None and place.count > 1 else None


def _from_text(text: str) -> Place:
  parts = [part.strip() for part in text.split(",")]
  if len(parts) != 3:
    raise UsageError(f"distributed is {shown(text)}; {_EXPECTED}")
  return _place(*parts, f"distributed is {shown(text)}; {_EXPECTED}")


def _place(
    address: str, count: str, index: str, wrong: str,
    devices: tuple[int, ...] = (),
) -> Place:
  """Texts as a place; UsageError(wrong) if they are none."""
  match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):([0-9]{1,5})", address)
  numbers = count.isascii() and count.isdigit(), index.isascii() and (
      index.isdigit()
  )
  if not match or not all(numbers):
    raise UsageError(wrong)
  port = int(match[3])
  if not 0 < port < 2**16 or not 0 <= int(index) < int(count):
    raise UsageError(wrong)
  return Place(match[1] or match[2], port, int(count), int(index), devices)


def _from_environment(environment: Mapping[str, str]) -> Place | None:
  launched = _launched(environment)
  count, index, devices = launched or (None, None, ())
  given = [environment.get(key) for key in _KEYS]
  if given[0] is None and (given[1] or given[2]):
    raise UsageError(
        f"{_KEYS[0]} is missing, but {_KEYS[1] if given[1] else _KEYS[2]} is"
        f" set; set all of {', '.join(_KEYS)}, or --config.distributed=off"
    )
  if given[0] is not None:
    count, index = given[1] or count, given[2] or index
    if count is None or index is None:
      missing = _KEYS[1] if count is None else _KEYS[2]
      raise UsageError(
          f"{missing} is missing, but {_KEYS[0]} is set; set all of"
          f" {', '.join(_KEYS)}, or --config.distributed=off"
      )
    return _place(
        given[0], count, index,
        f"{', '.join(_KEYS)} are {shown((given[0], count, index))}; expected"
        f" HOST:PORT, how many processes there are, and which one this is",
        devices,
    )
  if launched and int(count) == 1:
    return None
  if launched or importlib.util.find_spec("libtpu"):
    return _found_by_jax(launched)
  return None


def _launched(
    environment: Mapping[str, str]
) -> tuple[str, str, tuple[int, ...]] | None:
  """What a launcher says: (how many, which one, its accelerators), or None."""
  for names in _LAUNCHERS:
    texts = [environment.get(name, "") for name in names]
    if names[0].startswith("SLURM") and _SLURM_STEP not in environment:
      continue
    if all(text.isascii() and text.isdigit() for text in texts):
      return texts[0], texts[1], _accelerators(environment, int(texts[2]))
  return None


def _accelerators(
    environment: Mapping[str, str], local: int
) -> tuple[int, ...]:
  """One for each task of a machine with several; () is all that are seen.

  A task that is alone on its machine has all, and one that its launcher shows
  a single one has that.
  """
  here = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE")
  tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
  if _SLURM_STEP in environment:
    here = "1" if re.fullmatch(r"1(\(x[0-9]+\))?", tasks) else None
  visible = environment.get("CUDA_VISIBLE_DEVICES", "")
  if here == "1" or (visible and "," not in visible):
    return ()
  given = environment.get("JAX_LOCAL_DEVICE_IDS")
  if given:
    return tuple(int(n) for n in given.split(",") if n.strip().isdigit())
  return (local,)


def _found_by_jax(
    launched: tuple[str, str, tuple[int, ...]] | None
) -> Place | None:
  """What JAX itself knows of SLURM, Open MPI and TPU pods.

  Args:
    launched: as `_launched` has it.
  """
  # The one part of JAX that tells an address before it connects.
  from jax._src import clusters

  try:
    address, count, index, _ = (
        clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, _SECONDS
        )
    )
  except (RuntimeError, OSError, ValueError, KeyError) as error:
    raise UsageError(
        f"the other processes cannot be found ({reason(error)}); set"
        f" {', '.join(_KEYS)}, or --config.distributed=off for one process"
    ) from None
  if not launched and (count is None or count == 1):
    return None
  if address is None:
    raise UsageError(
        f"the launcher names {launched[0] if launched else count} processes,"
        f" but not where process 0 is; set {_KEYS[0]}=HOST:PORT, or"
        f" --config.distributed=off"
    )
  return _place(
      address, str(count), str(index),
      f"the launcher says {shown((address, count, index))}; expected HOST:PORT,"
      f" how many processes there are, and which one this is",
      launched[2] if launched else (),
  )
