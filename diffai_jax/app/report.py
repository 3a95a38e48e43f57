"""Tables and plots from a work folder: report.html, and the closing table."""

import base64
import html
import io
import os

from diffai_jax.app import console, workfolder
from diffai_jax.storage import files, store
from diffai_jax.training import metrics
from diffai_jax.types import UsageError
from diffai_jax.verification import certification, certifications

FILE = "report.html"


def write(workdir: str) -> str:
  """Writes report.html from what the work folder holds.

  The page is one file: plots are embedded.

  Args:
    workdir: a work folder with a config; results and metrics as far as they
      exist.

  Returns:
    The page's path.

  Raises:
    UsageError: if the folder holds no run.
  """
  config = workfolder.read_config(workdir)
  if config is None:
    raise UsageError(
        f"{workdir} holds no run (no {workfolder.CONFIG_FILE}); give the"
        f" --workdir of one"
    )
  rows = metrics.read(workdir)
  title = f"{config['network']} on {config['dataset']}"
  body = [f"<h1>{html.escape(title)}</h1>"]
  found = list(certifications.found(workdir))
  if found:
    body.append("<h2>Certification</h2>")
  for folder, summary in found:
    body += _certification(workdir, folder, summary)
  if rows:
    body += ["<h2>Training</h2>", _training_plot(rows)]
  body += ["<h2>Config</h2>", _table(_flat(config))]
  path = os.path.join(workdir, FILE)
  with files.replacing(path) as page:
    page.write(_PAGE.format(title=html.escape(title), body="\n".join(body)))
  return path


def print_results(workdir: str) -> None:
  """Prints the results and where the files are.

  Raises:
    UsageError: if results are damaged, after the others are printed.
  """
  damaged = None
  for folder, summary in certifications.found(workdir):
    if isinstance(summary, UsageError):
      damaged = damaged or summary
      continue
    # A title would be wrapped at the table's width.
    console.console.print(
        f"{summary['network']} on {summary['dataset']}, {_what(summary)}"
        f"{_where(workdir, folder)}", style="bold",
    )
    console.print_table("", _result_rows(summary))
  kinds = (
      (certification.JSON_FILE, "results"),
      (certification.NPZ_FILE, "every example's results, counterexamples"),
      (certification.NETWORK_FILE, "the network that was certified"),
      (certifications.FOLDER, "certifications with other settings"),
      (metrics.FILE, "training, a line a moment"),
      (FILE, "tables and plots"),
  )
  for name, what in kinds:
    path = os.path.join(workdir, name)
    if store.exists(path):
      console.print_path(what, path)
  if damaged:
    raise damaged


def _certification(
    workdir: str, folder: str, summary: dict | UsageError
) -> list[str]:
  """A certification's part of the page."""
  where = _where(workdir, folder)
  if isinstance(summary, UsageError):
    return [f"<p>{html.escape(str(summary))}</p>"]
  return [
      f"<h3>{html.escape(_what(summary) + where)}</h3>",
      _table(_result_rows(summary)),
      f"<p>{html.escape(_how(summary))}</p>",
      _margin_plot(folder, summary),
  ]


def _what(summary: dict) -> str:
  """What a certification's numbers are of."""
  return (
      f"epsilon {summary['epsilon']:g}, {summary['examples']:,} examples of"
      f" {summary['split']}, step {summary['step']:,},"
      f" {' and '.join(summary['methods']) or 'no method'}"
  )


def _how(summary: dict) -> str:
  skipped = ""
  if summary["skip_decided"]:
    skipped = " that nothing before them had decided"
  return (
      f"Network of {summary['source']}. {_attacks(summary)}. Methods but Box were"
      f" asked about all examples{skipped}. Proofs are for"
      f" {summary['arithmetic']}."
  )


def _attacks(summary: dict) -> str:
  """Which attacks there were."""
  names = list(summary.get("attacks", ["MIFGSM"]))
  if len(names) != 1:
    return f"Attacks: {', '.join(names) or 'none'}"
  if not names[0].startswith("MIFGSM"):
    return f"Attack: {names[0]}"
  attack = summary["attack"]
  return (
      f"Attack: MI-FGSM, {attack['steps']} steps, momentum"
      f" {attack['momentum']:g}, radius {attack['radius']:g}"
  )


def _where(workdir: str, folder: str) -> str:
  """The folder's name, if it is not the work folder."""
  if folder == workdir:
    return ""
  return f" ({os.path.relpath(folder, workdir)})"


def _result_rows(summary: dict) -> list[tuple[str, ...]]:
  """Name, share, count and seconds of each accuracy."""
  failed, every = summary["failed"], summary["examples"]

  def row(name: str, count: int | None, phase: str) -> tuple[str, ...]:
    seconds = f"{summary['seconds'].get(phase, 0):.1f} s"
    if phase in failed:
      return name, "failed", failed[phase], seconds
    return name, f"{count / every:.4f}", f"{count:,} of {every:,}", seconds

  def count_of(accuracy: float | None) -> int | None:
    return None if accuracy is None else round(accuracy * every)

  attacks = summary.get("attacks", {})
  several = len(attacks) > 1
  broken = [name for name in attacks if f"attack {name}" in failed]
  attacked = row(
      "attacked accuracy", count_of(summary["attacked_accuracy"]), "attack"
  ) if not broken else (
      "attacked accuracy", "failed", f"see {' and '.join(broken)}", ""
  )
  verified = summary["verified_accuracy"]
  return [
      row("standard accuracy", count_of(summary["standard_accuracy"]), "standard"),
  ] + [
      row(f"correct after {name}", one["standing"], f"attack {name}")
      for name, one in attacks.items() if several
  ] + [attacked] + [
      row(f"verified accuracy, {method}", count_of(verified.get(method)), method)
      for method in summary["methods"]
  ]


def _flat(config: dict, prefix: str = "") -> list[tuple[str, str]]:
  rows = []
  for key, value in config.items():
    if isinstance(value, dict):
      rows += _flat(value, f"{prefix}{key}.")
    else:
      rows.append((prefix + key, str(value)))
  return rows


def _table(rows: list[tuple[str, ...]]) -> str:
  lines = [
      "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
      for row in rows
  ]
  return "<table>" + "\n".join(lines) + "</table>"


def _training_plot(rows: list[dict]) -> str:
  from diffai_jax.app import plot  # Takes a while to load.

  return _image(
      plot.curves(rows), "loss, accuracy, radius and speed over the epochs"
  )


def _margin_plot(folder: str, summary: dict) -> str:
  from diffai_jax.app import plot

  arrays = certification.load_arrays(folder)
  return _image(
      plot.margins({
          method: arrays[f"margin_{method}"]
          for method in summary["verified_accuracy"]
      }),
      "share of examples with at least a given margin",
  )


def _image(figure, description: str) -> str:
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=110)
  data = base64.b64encode(buffer.getvalue()).decode("ascii")
  return f'<img alt="{description}" src="data:image/png;base64,{data}">'


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }}
td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 1.2rem 0.2rem 0; }}
img {{ max-width: 100%; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
