"""--mode=verify: whether properties (VNN-LIB) hold for networks (ONNX).

One line for each, which begins with the verdict, as VNN-COMP names them: `unsat` if
the property holds, `sat` with a point that breaks it, `timeout` and `unknown` if
neither was found. The results file has VNN-COMP's form.
"""

from collections.abc import Iterator
import csv
import dataclasses
import os
import sys
import time

import numpy as np

from diffai_jax.branching import Settings, search
from diffai_jax.branching.falsify import is_broken
from diffai_jax.graph import Graph, from_onnx, simplify
from diffai_jax.regions import Bounds, Spec, read_vnnlib
from diffai_jax.storage.paths import checked_path
from diffai_jax.types import UsageError, shown

_MOST_SECONDS = 1e6


@dataclasses.dataclass(frozen=True)
class Instance:
  """A network, a property of it, and the seconds to look."""

  network: str
  property: str
  seconds: float


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What was found.

  Attributes:
    word: unsat, sat, timeout or unknown.
    seconds: that it took, without compiling.
    subdomains: that were bounded.
    bound: below 0 if the property holds, the worst that is left otherwise.
    point, output: the network's input and output that break it, if it is sat.
  """

  word: str
  seconds: float
  subdomains: int
  bound: float
  point: np.ndarray | None = None
  output: np.ndarray | None = None

  def __str__(self) -> str:
    return (
        f"{self.word} ({self.seconds:.1f} s, {self.subdomains} subdomains,"
        f" bound {self.bound:.4g})"
    )


def instances(
    network: str | None, given: str | None, seconds: float
) -> Iterator[Instance]:
  """What is asked: one pair, or those of an instances.csv.

  Args:
    network: an ONNX file; a list has its own, and does without.
    given: a VNN-LIB file, or a list NAME.csv with lines of network, property and,
      if it says so, seconds; files in it are beside it.
    seconds: for those where a list says nothing.

  Raises:
    UsageError: in one line, if something is missing or no number.
  """
  if not given:
    raise UsageError(
        "--property is missing; --mode=verify needs a property such as"
        " --property=P.vnnlib, or a list such as --property=instances.csv"
    )
  if not 0 < seconds <= _MOST_SECONDS:
    raise UsageError(
        f"--seconds is {seconds:g}; expected a number above 0, at most"
        f" {_MOST_SECONDS:g}"
    )
  given = _file(given, "--property")
  if not given.endswith(".csv"):
    if not network:
      raise UsageError(
          "--config.network is missing; --mode=verify needs a network such as"
          " --config.network=net.onnx"
      )
    yield Instance(_file(network, "config.network"), given, seconds)
    return
  beside = lambda name: _file(
      os.path.join(os.path.dirname(given), name.strip()), shown(given)
  )
  with open(given, encoding="utf-8", newline="") as file:
    for number, row in enumerate(csv.reader(file), start=1):
      if not row or number == 1 and ".onnx" not in row[0]:
        continue  # An empty line, or a header.
      if len(row) < 2:
        raise UsageError(
            f"{shown(given)}, line {number}: expected network,property,seconds"
        )
      yield Instance(
          beside(row[0]), beside(row[1]), _seconds(row, seconds, given, number)
      )


def _file(name: str, what: str) -> str:
  path = checked_path(name, what)
  if not os.path.isfile(path):
    raise UsageError(f"{what}: there is no file {shown(path)}")
  return path


def _seconds(row: list[str], default: float, given: str, number: int) -> float:
  """A list's third column; a verdict or nothing there leaves the default."""
  if len(row) < 3 or not row[2].strip() or row[2].strip().isalpha():
    return default
  try:
    seconds = float(row[2])
  except ValueError:
    seconds = -1.0
  if not 0 < seconds <= _MOST_SECONDS:
    raise UsageError(
        f"{shown(given)}, line {number}: {shown(row[2])} are no seconds"
    )
  return seconds


def decide(
    graph: Graph, cases: list[tuple[Bounds, Spec]], seconds: float
) -> Verdict:
  """The verdict on a property.

  Args:
    graph: the network.
    cases: its regions, each of one example, and what must hold there.
    seconds: for all of them, compiling left out.
  """
  spent, subdomains, bound, word = 0.0, 0, -np.inf, "unsat"
  for region, spec in cases:
    low, high = (np.asarray(b, graph.dtype) for b in region.bounds())
    middle = (low / 2 + high / 2).clip(low, high)
    left = max(seconds - spent, 0.01)
    found = search(
        graph, middle, region, spec, Settings(seconds=left, total=left),
        progress=_progress(),
    )
    spent += float(found.seconds[0])
    subdomains += int(found.subdomains[0])
    bound = max(bound, float(found.bound[0]))
    if found.falsified[0]:
      broken = _inside(graph, region, spec, found.points[0])
      if broken is not None:
        return Verdict("sat", spent, subdomains, bound, *broken)
    if not found.verified[0]:
      word = "timeout" if spent >= seconds else "unknown"
  return Verdict(word, spent, subdomains, bound)


def _progress():
  """Rewrites one line of a terminal; nothing elsewhere."""
  last = [time.monotonic()]

  def show(state) -> None:
    if sys.stderr.isatty() and time.monotonic() - last[0] > 0.5:
      last[0] = time.monotonic()
      sys.stderr.write(f"\r\x1b[K{str(state)[:78]}\r")
      sys.stderr.flush()

  return show


def _inside(
    graph: Graph, region: Bounds, spec: Spec, point: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
  """A point that breaks the spec, and its output; None if it is at an edge alone.

  Bounds in floats are rounded outwards from a property's decimals: the point is
  moved between them by one float, and has to break the spec there.
  """
  low, high = (np.asarray(b, point.dtype)[0] for b in region.bounds())
  low, high = np.nextafter(low, high), np.nextafter(high, low)
  point = np.where(low <= high, point.clip(low, high), point)
  members = np.asarray(spec.check())
  for group in range(members.max() + 1):
    rows = np.asarray(spec.rows)[..., members == group, :]
    offsets = np.asarray(spec.offsets)[..., members == group]
    if is_broken(
        graph, point, rows.reshape((-1,) + graph.output_shape),
        offsets.reshape(-1),
    ):
      return point, np.asarray(graph(point[None]))[0]
  return None


def write(path: str, verdict: Verdict) -> None:
  """Writes VNN-COMP's results file: the word, and the point of `sat`.

  Raises:
    UsageError: in one line, if it cannot be written.
  """
  lines = [verdict.word]
  if verdict.point is not None:
    values = [("X", verdict.point), ("Y", verdict.output)]
    pairs = [
        f"({name}_{number} {float(value)!r})"
        for name, array in values
        for number, value in enumerate(np.ravel(array))
    ]
    lines.append("(" + "\n ".join(pairs) + ")")
  _append(path, "\n".join(lines) + "\n", "w")


def _append(path: str, text: str, mode: str = "a") -> None:
  try:
    with open(path, mode, encoding="utf-8") as file:
      file.write(text)
  except OSError as error:
    raise UsageError(
        f"--results={shown(path)} cannot be written: {error.strerror}"
    ) from None


def run(
    network: str | None, given: str | None, seconds: float,
    results: str | None = None,
) -> None:
  """Prints a line for each property, as it is decided.

  Args:
    network, given, seconds: of `instances`.
    results: file that gets what was found: of one property in VNN-COMP's form,
      of a list a line network,property,verdict,seconds for each.

  Raises:
    UsageError: in one line; of a list every network and property is looked for
      before the first is decided.
  """
  asked = list(instances(network, given, seconds))
  several = bool(given) and given.endswith(".csv")
  if several and results:
    _append(results, "", "w")
  graphs: dict[str, Graph] = {}
  for instance in asked:
    if instance.network not in graphs:
      graphs.clear()  # Lists stand by network.
      graphs[instance.network] = simplify(from_onnx(instance.network))
    graph = graphs[instance.network]
    cases = read_vnnlib(instance.property, graph.input_shape)
    verdict = decide(graph, cases, instance.seconds)
    names = [
        os.path.basename(name)
        for name in (instance.network, instance.property)
    ]
    text = f"{verdict}  {' '.join(names)}" if several else str(verdict)
    print(text, flush=True)
    if verdict.point is not None and not several:
      print(f"  at {np.ravel(verdict.point)[:10].tolist()}"
            f"{' ...' if verdict.point.size > 10 else ''}")
    if results and several:
      row = [*names, verdict.word, f"{verdict.seconds:.2f}"]
      _append(results, ",".join(row) + "\n")
    elif results:
      write(results, verdict)
