"""What the benchmarks share: configs, processes of their own, tables, JSON."""

from collections.abc import Iterable, Sequence
import json
import os
import subprocess
import sys

from absl import app

from diffai_jax.app import config_file, huge_pages


def load_config(text: str):
  """The config that "FILE:VARIANT" names in configs/."""
  return config_file.load(f"configs/{text}")


def run_apart(module: str, one: str) -> dict:
  """What a benchmark prints as JSON, last, for one part in its own process.

  It gets the flags of this process, and `--one`; its memory is in large pages,
  as that of the command.

  Raises:
    subprocess.CalledProcessError: if it fails, which says why.
  """
  command = [sys.executable, "-m", module, *sys.argv[1:], f"--one={one}"]
  done = subprocess.run(
      command, stdout=subprocess.PIPE, text=True, check=True,
      env=huge_pages.environment(os.environ),
  )
  return json.loads(done.stdout.splitlines()[-1])


def check_names(
    given: Sequence[str], known: Iterable[str], flag: str = "--only"
) -> None:
  """Raises app.UsageError unless all names that a flag has are known."""
  for name in given:
    if name not in known:
      raise app.UsageError(
          f"{flag} has {name!r}; expected some of {', '.join(known)}"
      )


def table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
  """A table in markdown; all but the first column to the right."""
  rule = ["---"] + ["---:"] * (len(header) - 1)
  return "\n".join(map(line, [header, rule, *rows]))


def line(cells: Sequence) -> str:
  """A row of a table; None is "-"."""
  return f"| {' | '.join('-' if x is None else str(x) for x in cells)} |"


def write_json(path: str | None, results) -> None:
  """Writes results, if there is a path to write to."""
  if path:
    with open(path, "w", encoding="utf-8") as file:
      json.dump(results, file, indent=1)
