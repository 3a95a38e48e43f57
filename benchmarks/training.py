r"""Training steps: ours, plain PyTorch's, and the machine's limit, in one run.

  python -m benchmarks.training --json=FILE
  python -m benchmarks.training --only="MNIST ConvSmall" --columns=b

Columns: (a) Point; (b) Point + Box; (c) Point + Box of half the width around a
random point; (d) IFGSM_3 + the same. Whole steps, compiled: bounds, gradients
clipped to norm 1, Adam; images are not augmented.

Runs of ours, of PyTorch's (`benchmarks.torch_steps`, in the fastest of its
forms) and of a large matrix product take turns, each entry in a process of its
own. Before that PyTorch's loss and gradients are checked to be ours; an entry
where they are not has no row. Without PyTorch (`pip install .[benchmark]`), or
with --torch=false, its columns stay empty.

"GFLOP/s" are twice the multiply-adds of the layers, in forward passes: 3 for a
point (one, and two for its gradients), 9 for a point and a box (center and
radius), 2 more for each step of an attack. "share" is that over the rate of the
matrix product, the faster of JAX's and PyTorch's. Ratios and shares are of the
least times. "compile" is tracing, lowering and compiling, without caches; MiB
are arguments and temporaries by the compiler's account. "v3" is DiffAI v3 on a
machine of this kind, measured at another time: the least of its runs.
--bfloat16 adds our step with products in bfloat16.
"""

import dataclasses
import json
import math
import resource
import subprocess
import sys

from absl import app, flags, logging
import jax
import numpy as np

from benchmarks import tables, timing
from diffai_jax.kernels import xla

_JSON = flags.DEFINE_string("json", None, "file that gets the results as JSON")
_ONLY = flags.DEFINE_list("only", [], "networks; all by default")
_COLUMNS = flags.DEFINE_list("columns", list("abcd"), "of the table")
_TORCH = flags.DEFINE_bool("torch", True, "whether to time PyTorch as well")
_BFLOAT16 = flags.DEFINE_bool(
    "bfloat16", False, "whether to time our step in bfloat16 as well"
)
_SECONDS = flags.DEFINE_float("seconds", 15.0, "of timing for each entry")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "timed runs of each, at least")
_ONE = flags.DEFINE_string("one", None, "NAME/COLUMN to measure, here")

GOALS = {
    "a": "Point",
    "b": "Mix(Point, Box, 0.5)",
    "c": "Mix(Point, Sample(0.5, Uniform, Box), 0.5)",
    "d": "Mix(IFGSM(3), Sample(0.5, Uniform, Box), 0.5)",
}
PASSES = {"a": 3, "b": 9, "c": 9, "d": 9 + 3 * 2}
# What (c) does is all in (d); without a (d), (a) and (b) are most of it.
_CHECKED = "abd"


@dataclasses.dataclass(frozen=True)
class Entry:
  """A network of the table.

  Attributes:
    config: "FILE:VARIANT" of configs/.
    batch: images a step.
    v3: milliseconds of DiffAI v3, by column; None where its bounds overflow.
    plain: whether it is made of plain layers alone. Others have no counterpart
      in PyTorch here, and no simple number of operations.
  """

  config: str
  batch: int
  v3: dict[str, float | None]
  plain: bool = True


ENTRIES = {
    "MNIST ConvSmall": Entry(
        "convsmall.py:mnist", 100, dict(a=4.1, b=12.8, c=16.4, d=26.9)
    ),
    "MNIST ConvMed": Entry(
        "convmed.py:mnist", 100, dict(a=3.7, b=20.7, c=19.8, d=48.1)
    ),
    "CIFAR ConvMed": Entry(
        "convmed.py:cifar10", 100, dict(a=5.3, b=23.9, c=28.9, d=52.2)
    ),
    "CIFAR ConvBig": Entry("convbig.py", 50, dict(a=35.7, b=157.9, c=162.7)),
    "CIFAR ConvLargeIBP": Entry(
        "convlarge_ibp.py", 20, dict(a=92.8, b=264.5, c=254.1)
    ),
    "CIFAR ResNet-Tiny": Entry(
        "resnet_tiny.py", 50, dict(a=298, b=868, c=916, d=1427)
    ),
    "CIFAR SkipNet-18": Entry("skipnet18.py", 10, dict(a=187, b=510, c=488)),
    "CIFAR ResNet-18": Entry("resnet18.py", 10, dict(a=192, b=515, c=523)),
    "CIFAR ResNet-34": Entry("resnet34.py", 4, dict(a=218, b=None, c=None)),
    "CIFAR DenseNet-100": Entry(
        "densenet100.py", 4, dict(a=93.6, b=366, c=364)
    ),
    "ResNet-Tiny FewCombo": Entry(
        "resnet_tiny.py:few_combo", 10, dict(c=583), plain=False
    ),
    "ResNet-Tiny ManyFixed": Entry(
        "resnet_tiny.py:many_fixed", 10, dict(c=787), plain=False
    ),
    "SkipNet-18 Combo": Entry(
        "skipnet18.py:combo", 4, dict(c=2473), plain=False
    ),
}


def load_torch():
  """`benchmarks.torch_steps`, or None without PyTorch."""
  if timing.torch is None or not _TORCH.value:
    return None
  from benchmarks import torch_steps  # pylint: disable=g-import-not-at-top

  return torch_steps


def measure(name: str, column: str) -> dict:
  """What the docstring says, for one network and column."""
  entry, torch_steps = ENTRIES[name], load_torch()
  job = timing.load_job(entry.config, GOALS[column], entry.batch)
  ours = timing.CompiledStep(job)
  params = jax.tree.map(np.array, ours.state.params)
  functions = {"ours": ours}
  if _BFLOAT16.value:
    functions["bfloat16"] = timing.CompiledStep(
        timing.load_job(entry.config, GOALS[column], entry.batch, bfloat16=True)
    )
  row = {
      "network": name, "column": column, "goal": str(job.goal),
      "batch": entry.batch, "compile_seconds": ours.compile_seconds,
      "mib": ours.mib,
  }
  if torch_steps and entry.plain:
    if column in _CHECKED:
      row["torch_difference"] = torch_steps.check(job, params, column)
    step, row["torch_form"] = torch_steps.fastest_step(job, params, column)
    functions["torch"] = step
  times = timing.interleaved(
      functions | timing.matrix_products(), rounds=_ROUNDS.value,
      seconds=_SECONDS.value,
  )
  row |= {who: timing.milliseconds(times[who]) for who in functions}
  row["rates"] = timing.matrix_product_rate(times)
  row["examples_per_second"] = entry.batch / min(times["ours"])
  if entry.plain:
    layers = timing.affine_layers(job.network, job.dataset.image_shape)
    products = entry.batch * sum(layer.products for layer in layers)
    row["gflop"] = PASSES[column] * 2 * products / 1e9
    row["gflops"] = row["gflop"] / min(times["ours"])
    row["share"] = row["gflops"] / row["rates"]["machine"]
  row["v3_ms"] = entry.v3.get(column)
  if row["v3_ms"]:
    row["v3_over_ours"] = row["v3_ms"] / row["ours"]["ms"]
  if "torch" in row:
    row["torch_over_ours"] = row["torch"]["ms"] / row["ours"]["ms"]
  row["finite"] = ours.is_finite()
  row["process_peak_mib"] = (
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  )
  return row


HEADER = (
    "network", "batch", "column", "ours, ms", "median", "PyTorch, ms", "median",
    "examples/s", "GFLOP/s", "product, GFLOP/s", "share", "compile, s", "MiB",
    "v3, ms", "v3/ours", "PyTorch/ours",
)


def cells(row: dict) -> list:
  """A row of the table."""

  def rounded(value: float | None, form: str = ".1f") -> str | None:
    return None if value is None else format(value, form)

  torch = row.get("torch", {})
  finite = "" if row["finite"] else " (not finite)"
  return [
      row["network"] + finite, row["batch"], row["column"],
      rounded(row["ours"]["ms"]), rounded(row["ours"]["median_ms"]),
      rounded(torch.get("ms")), rounded(torch.get("median_ms")),
      rounded(row["examples_per_second"], ",.0f"),
      rounded(row.get("gflops"), ".0f"),
      rounded(row["rates"]["machine"], ".0f"),
      rounded(row.get("share"), ".0%"), rounded(row["compile_seconds"]),
      rounded(row["mib"], ",.0f"), rounded(row["v3_ms"]),
      rounded(row.get("v3_over_ours"), ".2f"),
      rounded(row.get("torch_over_ours"), ".2f"),
  ] + ([rounded(row["bfloat16"]["ms"])] if "bfloat16" in row else [])


def geometric_means(rows: list[dict]) -> dict[str, dict[str, float | None]]:
  """Of both ratios, over each column and over "all"."""

  def mean(key: str, columns: str) -> float | None:
    logs = [
        math.log(row[key])
        for row in rows
        if row["column"] in columns and key in row
    ]
    return math.exp(sum(logs) / len(logs)) if logs else None

  return {
      name: {key: mean(key, columns)
             for key in ("v3_over_ours", "torch_over_ours")}
      for name, columns in [*zip(GOALS, GOALS), ("all", "".join(GOALS))]
  }


def main(_) -> None:
  xla.set_flags()
  logging.set_verbosity(logging.ERROR)
  if _ONE.value:
    print(json.dumps(measure(*_ONE.value.split("/"))))
    return
  tables.check_names(_ONLY.value, ENTRIES)
  if timing.torch is None:
    print("PyTorch is not installed: its columns stay empty.\n")
  header = HEADER + (("bfloat16, ms",) if _BFLOAT16.value else ())
  print(tables.table(header, []), flush=True)
  rows, failed = [], []
  for name in _ONLY.value or ENTRIES:
    for column in ENTRIES[name].v3:
      if column not in _COLUMNS.value:
        continue
      try:
        row = tables.run_apart("benchmarks.training", f"{name}/{column}")
      except subprocess.CalledProcessError:  # It has said why.
        failed.append(f"{name} ({column})")
        continue
      rows.append(row)
      print(tables.line(cells(row)), flush=True)
      means = geometric_means(rows)
      tables.write_json(_JSON.value, {"rows": rows, "geometric_means": means})
  means = geometric_means(rows)
  lines = [
      [name] + [x and f"{x:.2f}" for x in both.values()]
      for name, both in means.items()
  ]
  ratios = ("geometric mean", "v3/ours", "PyTorch/ours")
  print(f"\n{tables.table(ratios, lines)}")
  if failed:
    sys.exit(f"\nfailed: {', '.join(failed)}")


if __name__ == "__main__":
  app.run(main)
