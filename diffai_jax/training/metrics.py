"""Metrics of training: a JSON object a line, and TensorBoard events."""

import json
import os

import tensorboardX

from diffai_jax import files

FILE = "metrics.jsonl"


class MetricsWriter:
  """Appends to `metrics.jsonl` and to TensorBoard events in a work folder.

  Usable as a context manager, which closes both.

  Args:
    workdir: the work folder.
    first_step: lines of this step and later ones are dropped: a run that was
      killed after its last checkpoint takes those steps again.
  """

  def __init__(self, workdir: str, first_step: int):
    path = os.path.join(workdir, FILE)
    kept = [row for row in read(workdir) if row["step"] < first_step]
    with files.replacing(path) as lines:
      lines.writelines(json.dumps(row) + "\n" for row in kept)
    self._lines = open(path, "a", encoding="utf-8")
    self._events = tensorboardX.SummaryWriter(
        workdir, purge_step=first_step or None
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Writes the values of one moment of training."""
    self._lines.write(json.dumps({"step": step, **values}) + "\n")
    self._lines.flush()
    for name, value in values.items():
      self._events.add_scalar(name, value, step)

  def __enter__(self) -> "MetricsWriter":
    return self

  def __exit__(self, *exception) -> None:
    self._lines.close()
    self._events.close()


def read(workdir: str) -> list[dict]:
  """The lines of `metrics.jsonl`; one cut short by a kill is left out."""
  path = os.path.join(workdir, FILE)
  if not os.path.exists(path):
    return []
  rows = []
  with open(path, encoding="utf-8") as lines:
    for line in lines:
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        continue
  return rows
