"""Which platform a program is for: asked here, and nowhere above.

Forms that are fast on CPUs alone are chosen when a program is lowered, not when
it is traced: one that is exported for another platform has the plain forms of
that platform.
"""

from collections.abc import Callable, Iterator
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


def inner_programs(operation) -> Iterator:
  """The programs inside of a traced operation: of jit, scan, custom gradients.

  Of `on_cpu`, whose result is one of two, that of the default platform alone.

  Args:
    operation: an equation of a jaxpr.
  """
  named = operation.params.get("branches_platforms")
  if named is not None:
    here = jax.default_backend()
    found = (i for i, names in enumerate(named) if not names or here in names)
    branch = operation.params["branches"][next(found)]
    yield getattr(branch, "jaxpr", branch)
    return
  for parameter in operation.params.values():
    several = isinstance(parameter, (tuple, list))
    for one in parameter if several else (parameter,):
      program = getattr(one, "jaxpr", one)
      if hasattr(program, "eqns"):
        yield program


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
