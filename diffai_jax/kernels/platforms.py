"""Which platform a program is for: asked here, and nowhere above.

Forms that are fast on CPUs alone are chosen when a program is lowered, not when
it is traced: one that is exported for another platform has the plain forms of
that platform.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# On CPU, larger buffers go back to the system after each batch, and faulting
# them in anew costs more than a larger batch saves (measured: 3.2 ms an image
# of HBox on ConvSmall in 28 MiB, 4.5 ms in 890 MiB).
_CPU_MEMORY_MB = 32


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


def platform_name() -> str:
  """The platform that programs run on by default, for people's eyes."""
  return jax.default_backend()


def useful_memory_mb() -> float:
  """MiB of buffers beyond which a larger batch gains nothing."""
  return _CPU_MEMORY_MB if jax.default_backend() == "cpu" else float("inf")


def queues_steps() -> bool:
  """Whether a second step may be started before the first one has ended.

  Several devices that one CPU stands for wait for each other in sums over all
  of them, and may do so for ever if their threads are busy with another step.
  """
  return jax.local_device_count() == 1 or jax.default_backend() != "cpu"
