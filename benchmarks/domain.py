r"""What the structure of generators saves: ours against the naive dense form.

  python -m benchmarks.domain --json=FILE

Four questions, each over a range of sizes n, for one example:

  (a) correlated inputs, a Diagonal block, through a first convolution
  (b) CorrelateAll, a Diagonal block, before a dense layer with 10 outputs
  (c) margins of logits with a Dense block, and of logits with a Diagonal one
  (d) DeepLoss and its gradient

Naive is: for (a) and (b) the same element with n×n generators, a diagonal
matrix written out; for (c) the matrix of all differences with the label's
logit, a dense layer on every symbol; for (d) the printed formula, a maximum
over n variables for each of n variables.

Times are of compiled functions, runs of both interleaved, the least and the
median. Memory is what the compiler takes for temporaries and results. Ratios
are naive over ours, of the least times. The last row has the exponent of n,
fitted to each column's larger sizes. "-" is where the naive form would take
more than --memory_mb or, going on as before, more than --seconds a run. At the
smallest size both are checked to agree. 2 CPU cores take about three minutes.
"""

import dataclasses
import functools
import json
import time
from typing import Callable

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from diffai_jax import domains, losses, transformers
from diffai_jax.domains import Dense, Diagonal, HybridZonotope

_MEMORY = flags.DEFINE_integer("memory_mb", 4096, "most that naive may take")
_SECONDS = flags.DEFINE_float("seconds", 3.0, "longest run of the naive form")
_RUNS = flags.DEFINE_integer("runs", 50, "timed runs of each, at most")
_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")

_FEWEST_RUNS = 3  # More until a size has taken this many seconds:
_ENOUGH_SECONDS = 2.0
_FITTED = 4  # The exponents are those of this many sizes, the largest.
_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Case:
  """One question.

  Attributes:
    title: what is compared, and what n is.
    sizes: values of n, rising.
    inputs: (rng, n) -> arguments of both functions.
    ours, naive: return (what must agree, whatever else a layer passes on).
  """

  title: str
  sizes: tuple[int, ...]
  inputs: Callable
  ours: Callable
  naive: Callable


def written_out(radius):
  """Generators of one symbol a variable, [1, ...] -> Dense of n×n numbers."""
  size = radius.size
  identity = jnp.eye(size) * radius.reshape(1, 1, size)
  return Dense(identity.reshape((1, size) + radius.shape[1:]))


def layer(make, transform):
  """(ours, naive) of a box that `make` correlates, before an affine layer."""

  def through(element, kernel):
    image = transform(element, kernel, jnp.zeros(kernel.shape[-1]))
    return (domains.lower(image), domains.upper(image)), image.correlated

  def naive(center, radius, kernel):
    blocks = {"all": written_out(radius)}
    return through(HybridZonotope(center, None, blocks), kernel)

  def ours(center, radius, kernel):
    return through(make(center, radius), kernel)

  return ours, naive


def image_inputs(rng, size):
  side = round(size**0.5)
  shape = (1, side, side, 1)
  kernel = rng.normal(size=(4, 4, 1, 16))
  return rng.normal(size=shape), rng.uniform(size=shape), kernel


def vector_inputs(rng, size):
  return *box_inputs(rng, size), rng.normal(size=(size, _CLASSES))


def logit_inputs(rng, size):
  coefficients = rng.normal(size=(1, size, _CLASSES))
  return rng.normal(size=(1, _CLASSES)), coefficients, np.array([3])


def class_inputs(rng, size):
  return *box_inputs(rng, size), np.array([3])


def box_inputs(rng, size):
  return rng.normal(size=(1, size)), rng.uniform(size=(1, size))


def margins_ours(center, coefficients, labels):
  kind = Dense if coefficients.ndim == 3 else Diagonal
  element = HybridZonotope(center, None, {"all": kind(coefficients)})
  return losses.margins(element, labels), ()


def margins_naive(center, coefficients, labels):
  """z_k - z_y as a dense layer without bias, its kernel [K, K] by example."""
  if coefficients.ndim == 2:
    coefficients = written_out(coefficients).coefficients
  classes = jnp.arange(center.shape[1])
  own = (classes == labels[:, None])[:, :, None]
  kernel = jnp.eye(len(classes)) - own  # Column k is e_k - e_y.
  product = functools.partial(jnp.matmul, precision="highest")
  reach = jnp.abs(product(coefficients, kernel)).sum(axis=1)
  return product(center[:, None], kernel)[:, 0] + reach, ()


def deep_ours(center, radius):
  return losses.deep_loss(domains.box(center, radius)), ()


def deep_naive(center, radius):
  """The printed formula: [i, j] are all pairs of variables."""
  low, high = center - radius, center + radius
  low_i, high_i = low[:, :, None], high[:, :, None]
  low_j, high_j = low[:, None], high[:, None]
  below = jnp.where(low_j <= low_i, jax.nn.relu(high_j - low_i), -jnp.inf)
  above = jnp.where(high_i <= high_j, jax.nn.relu(high_i - low_j), -jnp.inf)
  return (below.max(axis=2) + above.max(axis=2)).mean(axis=1) / 2, ()


def gradient_of(function):
  value = lambda *args: function(*args)[0].sum()
  return lambda *args: (jax.grad(value, argnums=(0, 1))(*args), ())


def powers(first, last):
  return tuple(2**k for k in range(first, last + 1))


CASES = {
    "conv": Case(
        "(a) n correlated pixels through a convolution 1 -> 16, 4×4, stride 2",
        tuple(s**2 for s in (8, 16, 24, 32, 48, 64, 96, 128, 256, 512)),
        image_inputs,
        *layer(domains.correlated_box,
               functools.partial(transformers.conv, stride=2)),
    ),
    "dense": Case(
        "(b) CorrelateAll of n variables before a dense layer n -> 10",
        powers(8, 18), vector_inputs,
        *layer(lambda *box: transformers.correlate_all(
            domains.box(*box), "all"), transformers.dense),
    ),
    "margins_dense": Case(
        "(c) margins of 10 logits with a Dense block of n symbols",
        powers(8, 18), logit_inputs, margins_ours, margins_naive,
    ),
    "margins_diagonal": Case(
        "(c) margins of n logits with a Diagonal block",
        powers(6, 18), class_inputs, margins_ours, margins_naive,
    ),
    "deep_loss": Case(
        "(d) DeepLoss of n variables",
        powers(8, 16), box_inputs, deep_ours, deep_naive,
    ),
    "deep_loss_gradient": Case(
        "(d) gradient of DeepLoss of n variables", powers(8, 16), box_inputs,
        gradient_of(deep_ours), gradient_of(deep_naive),
    ),
}


def compile_for(function, inputs):
  """(compiled function, MiB of its temporaries and results)."""
  compiled = jax.jit(function).lower(*inputs).compile()
  stats = compiled.memory_analysis()
  size = stats.temp_size_in_bytes + stats.output_size_in_bytes
  return compiled, size / 2**20


def compile_naive(case, inputs, rows):
  """`compile_for` the naive form, or None where it would be too much."""
  times = [row["naive"] and row["naive"]["ms"] / 1000 for row in rows[-2:]]
  if None in times:
    return None
  if len(times) == 2 and times[1] ** 2 / times[0] > _SECONDS.value:
    return None
  form = compile_for(case.naive, inputs)
  return form if not rows or form[1] <= _MEMORY.value else None


def time_interleaved(functions, inputs):
  """Seconds of each run, a list for each function."""
  seconds = [[] for _ in functions]
  begin = time.perf_counter()
  for run in range(_RUNS.value):
    spent = time.perf_counter() - begin
    if run >= _FEWEST_RUNS and spent > _ENOUGH_SECONDS:
      break
    for function, own in zip(functions, seconds):
      for _ in range(2):  # The first fills caches that the other form cleared.
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        last = time.perf_counter() - start
      own.append(last)
  return seconds


def check(functions, inputs):
  """Asserts that both give the same, to 1e-4 of the largest number."""
  results = [jax.tree.leaves(f(*inputs)[0]) for f in functions]
  for one, other in zip(*results, strict=True):
    scale = 1e-4 * np.abs(other).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=scale)


def measure(case):
  """One row a size: n, and for ours and naive ms, median ms, MiB or None."""
  rows = []
  for size in case.sizes:
    rng = np.random.default_rng(size)
    inputs = [jnp.asarray(array) for array in case.inputs(rng, size)]
    forms = {"ours": compile_for(case.ours, inputs)}
    naive = compile_naive(case, inputs, rows)
    if naive:
      forms["naive"] = naive
    functions = [compiled for compiled, _ in forms.values()]
    if not rows:
      check(functions, inputs)
    row = {"n": size, "ours": None, "naive": None}
    timed = zip(forms.items(), time_interleaved(functions, inputs))
    for (name, (_, mib)), seconds in timed:
      median = 1000 * float(np.median(seconds))
      row[name] = {"ms": 1000 * min(seconds), "median_ms": median, "mib": mib}
    rows.append(row)
  return rows


def exponent(rows, name, key):
  """k of the fit c·n^k to the larger sizes, least squares on logarithms."""
  known = [(row["n"], row[name][key]) for row in rows if row[name]][-_FITTED:]
  if len(known) < 2:
    return None
  return float(np.polyfit(*np.log(known).T, 1)[0])


def table(rows, exponents):
  """The rows in markdown."""
  lines = [
      "| n | ours, ms | median | naive, ms | median | ratio |"
      " ours, MiB | naive, MiB | ratio |",
      "| " + " | ".join(["---"] * 9) + " |",
  ]
  for row in rows:
    columns = [f"{row['n']:,}"]
    for keys in (("ms", "median_ms"), ("mib",)):
      for form in (row["ours"], row["naive"]):
        columns += [f"{form[key]:.3f}" if form else "-" for key in keys]
      ratio = row["naive"] and row["naive"][keys[0]] / row["ours"][keys[0]]
      columns.append(f"{ratio:.1f}" if ratio else "-")
    lines.append("| " + " | ".join(columns) + " |")
  fits = ["-" if k is None else f"n^{k:.2f}" for k in exponents.values()]
  lines.append("| fit | {} | | {} | | | {} | {} | |".format(*fits))
  return "\n".join(lines)


def main(_):
  results = {}
  for name, case in CASES.items():
    rows = measure(case)
    exponents = {
        f"{who}_{key}": exponent(rows, who, key)
        for key in ("ms", "mib") for who in ("ours", "naive")
    }
    results[name] = dict(title=case.title, rows=rows, exponents=exponents)
    print(f"\n{case.title}\n\n{table(rows, exponents)}", flush=True)
  if _JSON.value:
    with open(_JSON.value, "w", encoding="utf-8") as file:
      json.dump(results, file, indent=1)


if __name__ == "__main__":
  app.run(main)
