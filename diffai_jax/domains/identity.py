"""Names of noise symbols: unique, and safe under JAX's caches of programs.

Blocks of one name share their symbols, so a name that two independent sources
have by accident makes bounds unsound: relu(x) - relu(-x) would be 0. What
creates symbols without being told their name gets one here, which no other call
in this process has.

A name is made by Python, and JAX runs a traced function's Python code
once. What takes the program from a cache (`jax.jit`, `flax.linen.jit`), runs
it for many examples (`jax.vmap`) or many times (`scan`) has the same names each
time: inside of the trace that made it a name stands for one family of symbols,
outside of it for any number of them. So each name belongs to its trace, and once
that has ended no two elements share symbols by it (`transformers.sharing`). Names
that a caller gave are left alone: who gives one asks for sharing.
"""

from collections.abc import Iterator
import re
import threading
import weakref

from jax.extend import core

# Twelve digits: names of one label sort in the order of their making, whatever
# the process has made before. Blocks are summed in the order of their names.
_NUMBERED = re.compile(r"(.*)#(t?)(\d{12})", re.DOTALL)
_lock = threading.Lock()
_made = 0
# The numbers of the names that each living trace has made.
_made_in: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def fresh_symbol(label: str) -> str:
  """A name for new noise symbols, which nothing else in this process has.

  Args:
    label: what it begins with, for people: a layer's path, or "input".

  Returns:
    Such as "layers_3#000000000017"; "…#t000000000017" if a trace made it.
  """
  global _made
  trace = next(_traces())
  with _lock:
    number, _made = _made, _made + 1
    if type(trace).__name__ == "EvalTrace":  # JAX's own; nothing is traced.
      return f"{label}#{number:012}"
    _made_in.setdefault(trace, set()).add(number)
    return f"{label}#t{number:012}"


def renewed_symbol(name: str) -> str:
  """A fresh name with the label of this one."""
  found = _NUMBERED.fullmatch(name)
  return fresh_symbol(found[1] if found else name)


def is_shared(name: str) -> bool:
  """Whether blocks of this name, in two elements, are of the same symbols.

  False for a name whose trace has ended: see this file.
  """
  found = _NUMBERED.fullmatch(name)
  if found is None or not found[2]:
    return True
  number = int(found[3])
  return any(number in _made_in.get(trace, ()) for trace in _traces())


def require_symbol(name: str) -> None:
  """Raises ValueError for a name that `fresh_symbol` may make one day."""
  found = _NUMBERED.fullmatch(name)
  if found and int(found[3]) >= _made:
    raise ValueError(
        f"the symbol name {name!r} ends like those that layers get; leave out"
        f" the # and what follows"
    )


def _traces() -> Iterator:
  """The traces under way, from the innermost to the outermost."""
  trace = core.find_top_trace(())
  while trace is not None:
    yield trace
    trace = getattr(trace, "parent_trace", None)
