"""No block of one symbol a variable ever becomes an array of n×n numbers.

Read from the traced program: every array that any step of it makes, in inner
programs too. `benchmarks/domain.py` measures what that saves.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, Diagonal, HybridZonotope
from diffai_jax.domains.generators import to_dense

BATCH = 2


def inner_programs(value):
  """The jaxprs in a parameter of an equation, however it holds them."""
  if isinstance(value, (tuple, list)):
    return [program for item in value for program in inner_programs(item)]
  if isinstance(value, dict):
    return inner_programs(list(value.values()))
  if hasattr(value, "jaxpr"):  # Closed over its constants.
    return [value.jaxpr]
  return [value] if hasattr(value, "eqns") else []


def sizes(program):
  """How many numbers each array of a jaxpr has: given, constant, or made."""
  variables = list(program.invars) + list(program.constvars)
  for equation in program.eqns:
    variables += equation.outvars
    for value in equation.params.values():
      for inner in inner_programs(value):
        yield from sizes(inner)
  for variable in variables:
    yield int(np.prod(getattr(variable.aval, "shape", ()), dtype=np.int64))


def largest(function, *shapes):
  """How many numbers an example the largest array of a run has."""
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  program = jax.make_jaxpr(function)(*arrays).jaxpr
  return max(sizes(program)) / BATCH


def gradient(function):
  """The gradient with respect to all arguments: what training computes."""
  total = lambda *args: sum(
      leaf.sum() for leaf in jax.tree.leaves(function(*args))
  )
  return lambda *args: jax.grad(total, argnums=tuple(range(len(args))))(*args)


def bounds(element):
  return domains.lower(element), domains.upper(element), element.correlated


def image_box(form, center, radius):
  radius = jnp.abs(radius)
  if form == "structured":
    return domains.correlated_box(center, radius)
  return HybridZonotope(center, None, {"input": to_dense(Diagonal(radius))})


def convolved(form):
  def run(center, radius, kernel):
    x = image_box(form, center, radius)
    return bounds(transformers.conv(x, kernel, jnp.zeros(4), stride=2))
  return run


def convolved_twice(form):
  """The first layers of ConvSmall: the ReLU between keeps the windows."""
  def run(center, radius, kernel):
    x = image_box(form, center, radius)
    x = transformers.conv(x, kernel, jnp.zeros(4), stride=2)
    wide = jnp.concatenate([kernel] * 4, axis=2)
    x = transformers.conv(transformers.relu(x), wide, jnp.zeros(4), stride=2)
    return bounds(x)
  return run


def classified(form):
  def run(center, radius, kernel):
    x = domains.box(center, jnp.abs(radius))
    if form == "structured":
      x = transformers.correlate_all(x, "all")
    else:
      block = to_dense(Diagonal(x.uncorrelated))
      x = HybridZonotope(center, None, {"all": block})
    return bounds(transformers.dense(x, kernel, jnp.zeros(10)))
  return run


def margins_of_many_classes(form):
  def run(center, radius):
    block = Diagonal(radius)
    block = block if form == "structured" else to_dense(block)
    element = HybridZonotope(center, None, {"all": block})
    return losses.margins(element, jnp.arange(BATCH))
  return run


def margins_of_many_symbols(form):
  """Naive are generators of the differences of any two of 10 logits."""
  def run(center, coefficients):
    if form != "structured":
      return coefficients[..., None] - coefficients[..., None, :]
    element = HybridZonotope(center, None, {"all": Dense(coefficients)})
    return losses.margins(element, jnp.arange(BATCH))
  return run


def deep(form):
  def run(center, radius):
    if form == "structured":
      return losses.deep_loss(domains.box(center, jnp.abs(radius)))
    low, high = center - radius, center + radius
    gaps = jax.nn.relu(high[:, None] - low[:, :, None])
    below = low[:, None] <= low[:, :, None]
    return jnp.where(below, gaps, -jnp.inf).max(axis=2).mean(axis=1)
  return run


IMAGE = (BATCH, 64, 64, 1)
VECTOR = (BATCH, 4096)
# n, the shapes of the arguments, how many numbers *a variable* an array may
# have (of windows 2×2×4 and 3×3×4, of logits, of a sort), and at least how
# many the naive form has.
CASES = {
    "convolved": (
        convolved, 4096, (IMAGE, IMAGE, (4, 4, 1, 4)), 16, 4096),
    "convolved_twice": (
        convolved_twice, 4096, (IMAGE, IMAGE, (4, 4, 1, 4)), 36, 4096),
    "classified": (
        classified, 4096, (VECTOR, VECTOR, (4096, 10)), 10, 4096),
    "margins_of_many_classes": (
        margins_of_many_classes, 4096, (VECTOR, VECTOR), 1, 4096),
    "margins_of_many_symbols": (
        margins_of_many_symbols, 4096, ((BATCH, 10), (BATCH, 4096, 10)), 10,
        100),
    "deep": (deep, 65536, ((BATCH, 65536),) * 2, 8, 65536),
}


@pytest.mark.parametrize("direction", ["forward", "gradient"])
@pytest.mark.parametrize("name", CASES)
def test_no_array_has_n_squared_numbers(name, direction):
  make, n, shapes, allowed, naive = CASES[name]
  wrap = gradient if direction == "gradient" else lambda f: f
  assert largest(wrap(make("structured")), *shapes) <= allowed * n
  # The same walk finds the naive form out, which is far larger.
  assert largest(wrap(make("naive")), *shapes) >= naive * n >= 10 * allowed * n


@pytest.mark.parametrize("name", CASES)
def test_nor_does_the_compiler_make_one(name):
  make, n, shapes, allowed, _ = CASES[name]
  arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  compiled = jax.jit(make("structured")).lower(*arrays).compile()
  stats = compiled.memory_analysis()
  used = stats.temp_size_in_bytes + stats.output_size_in_bytes
  assert used <= 40 * BATCH * allowed * n  # Ten such arrays of float32.


def test_the_walk_sees_inner_programs():
  """Arrays that appear within loops, branches and custom rules alone."""
  square = lambda x: (x[:, None] * x).sum(axis=1)
  inside = [
      jax.jit(square),
      lambda x: lax.scan(lambda c, _: (square(c), None), x, None, length=2),
      lambda x: lax.cond(x[0] > 0, square, lambda v: v, x),
      lambda x: lax.while_loop(lambda c: c[0] > 0, square, x),
      jax.checkpoint(square),
  ]
  rule = jax.custom_vjp(square)
  rule.defvjp(lambda x: (square(x), x), lambda x, g: (square(g),))
  inside.append(rule)
  for function in inside:
    assert largest(function, (300,)) * BATCH == 300 * 300
  constant = np.ones((300, 300), np.float32)
  assert largest(lambda x: constant @ x, (300,)) * BATCH == 300 * 300
