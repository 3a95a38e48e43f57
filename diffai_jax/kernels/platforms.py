"""What a platform gets, and which one a program is for: asked here alone.

Everything that differs between CPUs, GPUs and TPUs is in one table, `Platform`,
but for the forms that are fast on CPUs alone: those are chosen when a program is
lowered, not when it is traced, so that one that is exported for another platform
has the plain forms of that platform.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
import types
from typing import Any

import jax
from jax import lax


@dataclasses.dataclass(frozen=True)
class Platform:
  """What programs, and the loops around them, get on one kind of device.

  Attributes:
    training_products: the precision that matrix products of training steps ask
      for. None is the device's default: float32 on CPUs, TF32 on GPUs that have
      it, one pass of bfloat16 on TPUs; JAX_DEFAULT_MATMUL_PRECISION chooses
      another. Bounds that prove something ask for the highest everywhere.
    memory_share: of the memory that is free, what one program's buffers may
      take. The network, its results and a compiler are in memory besides.
    useful_mib: MiB of buffers beyond which a larger batch gains nothing.
    batches: sizes of batches that certification chooses from, images a device;
      beyond the last a larger one only takes more memory.
    xla_flags: by name, without dashes.
    memory_apart: whether it is not the host's: what goes there and back is
      transferred ahead.
    queued: dispatches that may be under way before the metrics of the oldest one
      are read. Two batches a dispatch are on the device besides.
    batches_ahead: dispatches whose batches a thread prepares and transfers while
      others run; 0 is no thread.
    flops: operations a second that training reaches on such a device, by order
      of magnitude; None where a dispatch costs little beside any step.
  """

  training_products: lax.Precision | None
  memory_share: float
  useful_mib: float
  batches: tuple[int, ...]
  xla_flags: Mapping[str, str]
  memory_apart: bool
  queued: int
  batches_ahead: int
  flops: float | None


CPU = Platform(
    training_products=None,
    memory_share=0.5,
    # Larger buffers go back to the system after each batch, and faulting them in
    # anew costs more than a larger batch saves (measured: 3.2 ms an image of
    # HBox on ConvSmall in 28 MiB, 4.5 ms in 890 MiB).
    useful_mib=32,
    # No powers of two: an attack on ConvSmall takes twice as long with 64, 128,
    # 256 or 512 images.
    batches=(1, 2, 5, 10, 20, 50, 100, 200, 500),
    xla_flags=types.MappingProxyType({
        # Convolutions and dense layers in one more library: 10 to 25% off a
        # training step. Sums are still of float32, in another order.
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
        # Without this pass, barriers stay until programs are fused. It would
        # merge what `nn.Sequential` computes twice to save memory, and fuse what
        # `computed_once` holds apart.
        "xla_disable_hlo_passes": "cse_barrier_expander",
    }),
    memory_apart=False,
    queued=4,
    # The threads that would prepare are those that the step runs on.
    batches_ahead=0,
    # XLA's loops run their bodies slower than the same program by itself.
    flops=None,
)
GPU = Platform(
    training_products=None,
    memory_share=0.5,
    useful_mib=math.inf,
    batches=tuple(2**power for power in range(13)),
    xla_flags=types.MappingProxyType({}),  # XLA's own: none was measured.
    memory_apart=True,
    queued=8,
    batches_ahead=2,
    flops=1e13,
)
TPU = dataclasses.replace(GPU, flops=3e13)

# What a dispatch should take on the device at least, and what a step of no
# operations would take, whose kernels are started one after the other.
_DISPATCH_SECONDS, _LAUNCH_SECONDS = 1e-2, 3e-4
_MOST_STEPS = 32  # In one dispatch: their batches are transferred together.


def here() -> Platform:
  """What the platform gets that programs run on by default."""
  return {"cpu": CPU, "tpu": TPU}.get(jax.default_backend(), GPU)


def platform_name() -> str:
  """The platform that programs run on by default, for people's eyes."""
  return jax.default_backend()


def queued_dispatches() -> int:
  """Dispatches of training that may be under way before the oldest is read.

  None on several CPUs, whether one process has them all or each has its own.
  Devices that wait for each other in sums over all of them may do so for ever
  there, if the threads of one are busy with another dispatch.
  """
  several = jax.device_count() > 1
  return 0 if several and here() is CPU else here().queued


def steps_per_dispatch(flops: Callable[[], float]) -> int:
  """How many training steps one dispatch takes, so that it fills the device.

  Args:
    flops: operations of a step on one device; called where it matters.
  """
  rate = here().flops
  if rate is None:
    return 1
  seconds = flops() / rate + _LAUNCH_SECONDS
  return max(1, min(_MOST_STEPS, math.ceil(_DISPATCH_SECONDS / seconds)))


def on_cpu(fast: Callable, plain: Callable, *operands) -> Any:
  """fast(*operands) in programs for CPUs, plain(*operands) in all others.

  Both are traced; a program that is lowered for one platform has one of them.

  Args:
    fast, plain: functions of the same results but for rounding.
    *operands: pytrees of arrays.
  """
  return lax.platform_dependent(*operands, cpu=fast, default=plain)


def computed_once(value: Any) -> Any:
  """The identity; on CPUs what stands before it is fused with nothing behind.

  XLA's programs for CPUs otherwise compute it anew for each of its uses, number
  by number, also where that is a sum over many arrays. The same holds for the
  gradient that comes back.

  Args:
    value: a pytree of arrays.
  """
  return on_cpu(lax.optimization_barrier, lambda x: x, value)


def inner_programs(operation) -> Iterator:
  """The programs inside of a traced operation: of jit, scan, custom gradients.

  Of `on_cpu`, whose result is one of two, that of the default platform alone.

  Args:
    operation: an equation of a jaxpr.
  """
  named = operation.params.get("branches_platforms")
  if named is not None:
    own = jax.default_backend()
    found = (i for i, names in enumerate(named) if not names or own in names)
    branch = operation.params["branches"][next(found)]
    yield getattr(branch, "jaxpr", branch)
    return
  for parameter in operation.params.values():
    several = isinstance(parameter, (tuple, list))
    for one in parameter if several else (parameter,):
      program = getattr(one, "jaxpr", one)
      if hasattr(program, "eqns"):
        yield program
