"""Reading any JAX function of one batched input into a graph, by its jaxpr.

What does not depend on the input is evaluated while reading, traced or not:
weights may be tracers of a training step. The other equations become calls of
transformers: see `RULES` in the files `jax_*` beside this one. Functions that have
a sharper transformer than their equations are found by what was computed, never by
a name: see `known_functions`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import contextlib
import os
import re

import jax
from jax.extend import core as jex
import jax.numpy as jnp
import numpy as np

from diffai_jax.graph import jax_arithmetic
from diffai_jax.graph import jax_batch_size
from diffai_jax.graph import jax_linear
from diffai_jax.graph import jax_moves
from diffai_jax.graph import jax_reductions
from diffai_jax.graph.building import Builder
from diffai_jax.graph.graph import Graph
from diffai_jax.graph.jax_constants import evaluate
from diffai_jax.graph.jax_sharing import SharingBuilder
from diffai_jax.graph.jax_values import (
    Batched,
    Compared,
    MixesBatch,
    Rows,
    Unreadable,
    depends,
    known,
)
from diffai_jax.types import UsageError, reason

RULES = (
    jax_arithmetic.RULES | jax_linear.RULES | jax_moves.RULES
    | jax_reductions.RULES
)

# Primes: sizes of the batch while tracing, which no other axis should have.
_BATCHES = (211, 223, 227)
# Parameters that hold what a call, jitted or with its own derivative, computes.
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_CALLS = frozenset((
    "jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint",
    "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr", "xla_call",
))
# Folders whose files are not the user's, when a place is to be named.
_LIBRARIES = re.compile(
    r"[\\/](jax|jaxlib|flax|equinox|haiku|optax|contextlib|functools)"
    r"(\.py$|[\\/])"
)


def from_jax(
    function: Callable,
    input_shape: Sequence[int],
    dtype=np.float32,
    *,
    checked: bool = False,
) -> Graph:
  """The graph of a JAX function of one batched input.

  Works inside of jitted and differentiated functions: the graph's arrays are
  traced where the function's weights are. Calls bear the path of the Flax module
  that makes them, without the outermost module's; those of a module that is
  entered again "PATH#2".

    network = nn.Sequential([nn.Dense(9), nn.relu, nn.Dense(2)])
    from_jax(lambda x: network.apply(variables, x), (4,))

  Args:
    function: [B, *input_shape] -> array [B, ...], or a pytree of such; its
      weights are constants or closed over.
    input_shape: of one example.
    dtype: of the input, a floating-point type.
    checked: whether this function was read before, with other numbers for
      weights. It is traced once then, and not a second time to see that it does
      not compute with the size of its batch.

  Raises:
    UsageError: in one line, with primitive and place, for what has no
      transformer, or if an example's result depends on other examples.
  """
  shape = tuple(map(int, input_shape))
  dtype = jax.dtypes.canonicalize_dtype(dtype)
  if not jnp.issubdtype(dtype, jnp.floating):
    raise UsageError(
        f"a network's input is of type {dtype}; expected floats, such as float32"
    )
  free = [batch for batch in _BATCHES if batch not in shape]
  for last, batch in enumerate(free, start=1):
    try:
      return _read(function, shape, dtype, batch, checked)
    except UsageError as error:
      # Another size of the batch tells whether an axis had it by chance.
      if last == len(free) or not isinstance(error.__cause__, MixesBatch):
        raise
  raise AssertionError("no size of the batch was tried")


def _read(
    function, shape: tuple[int, ...], dtype, batch: int, checked: bool
) -> Graph:
  other = next(size for size in _BATCHES if size != batch)
  try:
    traced, *again = (
        jax.make_jaxpr(function)(jax.ShapeDtypeStruct((size, *shape), dtype))
        for size in ((batch,) if checked else (batch, other))
    )
  except jax.errors.ConcretizationTypeError as error:
    raise UsageError(
        f"the network does with numbers of its input what can only be done once"
        f" they are known, such as `if`: {reason(error)}"
    ) from error
  builder = SharingBuilder(shape, dtype)
  reader = Reader(builder, batch, _Names(traced.jaxpr))
  outputs = reader.run(
      traced.jaxpr, traced.consts, [Batched(builder.input, 0)], ""
  )
  for output in outputs:
    if isinstance(output, Rows):
      raise UsageError(
          "the network joins the batch with another axis in what it gives; the"
          " batch must be the first axis of its own"
      )
    if not isinstance(output, Batched):
      raise UsageError(
          f"the network gives {_kind(output)}; expected numbers that are"
          f" computed from its input"
      )
    if output.axis:
      raise UsageError(
          f"the batch is axis {output.axis} of what the network gives; it must"
          f" be the first"
      )
  for second in again:
    jax_batch_size.check(traced, second, (batch, other))
  return builder.graph(*(output.value for output in outputs))


def _kind(output) -> str:
  return "a comparison" if isinstance(output, Compared) else "a constant"


class Reader:
  """Walks through equations and notes calls.

  Attributes:
    builder: of the graph.
    batch: how many examples the function was traced with.
  """

  def __init__(self, builder: Builder, batch: int, names: "_Names"):
    self.builder, self.batch = builder, batch
    self._names = names
    self._outermost = None  # The equation that is being read, not inside a call.

  def run(
      self, jaxpr: jex.Jaxpr, constants: Sequence, arguments: Sequence,
      path: str,
  ) -> list:
    """What a jaxpr gives, as values of `jax_values`.

    Args:
      jaxpr: its equations.
      constants: values of its constvars.
      arguments: values of its invars.
      path: name stack of the call that it is inside of.
    """
    values = dict(zip(jaxpr.constvars, constants))
    values.update(zip(jaxpr.invars, arguments))

    def look_up(atom):
      if isinstance(atom, jex.Literal):
        return np.asarray(atom.val, atom.aval.dtype)
      return values[atom]

    for eqn in _needed(jaxpr):
      own = f"{path}/{eqn.source_info.name_stack}"
      inputs = [look_up(atom) for atom in eqn.invars]
      with self._placed(eqn, own):
        if any(map(depends, inputs)):
          with self.builder.named(self._names.enter(own)):
            outputs = self._equation(eqn, inputs, own)
        elif eqn.primitive.name in _CALLS:
          outputs = self._call(eqn, inputs, own)
        else:
          outputs = evaluate(eqn, inputs)
      values.update(zip(eqn.outvars, outputs))
    return [look_up(atom) for atom in jaxpr.outvars]

  def _equation(self, eqn, inputs: list, path: str) -> list:
    """What an equation gives that depends on the network's input."""
    name = eqn.primitive.name
    if name in _CALLS:
      return self._call(eqn, inputs, path)
    if name == "cond" and not depends(inputs[0]):
      return self._branch(eqn, inputs, path)
    if name not in RULES:
      raise Unreadable("it has no transformer; use layers that have one")
    compared = any(isinstance(value, Compared) for value in inputs)
    if compared and name != "select_n":
      raise Unreadable(
          "it uses a comparison of values that depend on the input, which is"
          " bounded only in where(x > 0, ...) and its like"
      )
    if any(isinstance(value, Rows) for value in inputs) and name not in (
        "reshape", "dot_general"
    ):
      raise MixesBatch("treats the batch and another axis as one")
    outputs = RULES[name](self, eqn, *inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for output in outputs:
      if isinstance(output, Batched) and self.batch in output.shape:
        raise MixesBatch("makes an axis of the batch's size")
    return outputs

  def _call(self, eqn, inputs: list, path: str) -> list:
    body = next((eqn.params[n] for n in _BODIES if n in eqn.params), None)
    if body is None:
      raise Unreadable("its equations are not known")
    constants = getattr(body, "consts", ())
    return self.run(getattr(body, "jaxpr", body), constants, inputs, path)

  def _branch(self, eqn, inputs: list, path: str) -> list:
    index = known(inputs[0])
    if index is None:
      raise Unreadable("its branch is not known while reading")
    branches = eqn.params["branches"]
    platforms = eqn.params.get("branches_platforms")
    if platforms and platforms[-1] is None:
      index = len(branches) - 1  # What any platform can run.
    body = branches[int(np.clip(index, 0, len(branches) - 1))]
    return self.run(body.jaxpr, body.consts, inputs[1:], path)



  @contextlib.contextmanager
  def _placed(self, eqn, path: str) -> Iterator[None]:
    """Errors in the block name the equation's primitive and place."""
    outermost = self._outermost
    self._outermost = outermost or eqn
    try:
      yield
    except UsageError:
      raise  # An equation inside of this one's call has named itself.
    except (Unreadable, ValueError, IndexError) as error:
      layer = "/".join(_scopes(path)) or "the network's function"
      # Equations of jitted functions remember where these were called first.
      line = _line(self._outermost)
      place = f"{layer} ({line})" if line else layer
      raise UsageError(
          f"cannot read {eqn.primitive.name!r} in {place}: {reason(error)}"
      ) from error
    finally:
      self._outermost = outermost


def _needed(jaxpr: jex.Jaxpr) -> list:
  """Equations that what a jaxpr gives needs, in order."""
  wanted, kept = set(_variables(jaxpr.outvars)), []
  for eqn in reversed(jaxpr.eqns):
    if wanted.intersection(_variables(eqn.outvars)):
      kept.append(eqn)
      wanted.update(_variables(eqn.invars))
  return kept[::-1]


def _variables(atoms: Sequence) -> list:
  return [atom for atom in atoms if not isinstance(atom, jex.Literal)]


def _line(eqn) -> str:
  """File and line of an equation, in the user's own code if possible."""
  traceback = getattr(eqn.source_info, "traceback", None)
  frames = getattr(traceback, "frames", None) or ()
  for frame in frames:
    if not _LIBRARIES.search(frame.file_name):
      return f"{os.path.basename(frame.file_name)}:{frame.line_num}"
  return ""


def _scopes(stack: str) -> list[str]:
  """The names of a name stack, without what JAX's transformations add."""
  names = []
  for part in stack.split("/"):
    while part.endswith(")") and "(" in part:
      wrapper, _, part = part[:-1].partition("(")
      if wrapper in ("jit", "pjit"):
        part = ""
    if part:
      names.append(part)
  return names


class _Names:
  """Names of calls by name stack: the path, and how often it was entered."""

  def __init__(self, jaxpr: jex.Jaxpr):
    stacks = [_scopes(str(eqn.source_info.name_stack)) for eqn in jaxpr.eqns]
    stacks = [stack for stack in stacks if stack]
    roots = {stack[0] for stack in stacks}
    deep = any(len(stack) > 1 for stack in stacks)
    # The outermost module has the name of its class: all names would begin so.
    self._root = roots.pop() if len(roots) == 1 and deep else None
    self._entered: Counter[str] = Counter()
    self._inside: list[str] = []

  def enter(self, stack: str) -> str:
    """The name of a call with that name stack, which comes after all before."""
    scopes = _scopes(stack)
    if scopes and scopes[0] == self._root:
      scopes = scopes[1:]
    common = os.path.commonprefix([self._inside, scopes])
    for depth in range(len(common), len(scopes)):
      self._entered["/".join(scopes[: depth + 1])] += 1
    self._inside = scopes
    path = "/".join(scopes)
    count = self._entered[path]
    return f"{path}#{count}" if count > 1 else path
