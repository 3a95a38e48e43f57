"""The notebook runs from its first cell to its last, and shows what it says."""

import os
import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

_ROOT = pathlib.Path(__file__).parents[1]
_PATH = _ROOT / "notebooks" / "diffai_jax.ipynb"


def _kernel_environment(monkeypatch) -> None:
  """The kernel finds the package that is tested, and compiles in no time."""
  given = os.environ.get("PYTHONPATH")
  monkeypatch.setenv(
      "PYTHONPATH", os.pathsep.join(filter(None, (str(_ROOT), given)))
  )
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def _execute(notebook, folder, monkeypatch):
  """Executes a notebook in a folder; returns it with its outputs."""
  _kernel_environment(monkeypatch)
  client = nbclient.NotebookClient(
      notebook, timeout=600, kernel_name="python3",
      resources={"metadata": {"path": str(folder)}},
  )
  return client.execute()


def _texts(notebook) -> str:
  """All that the cells have printed and shown as text."""
  parts = []
  for cell in notebook.cells:
    for output in cell.get("outputs", []):
      parts.append(output.get("text", ""))
      parts.append(output.get("data", {}).get("text/plain", ""))
  return "\n".join(parts)


def _pictures(notebook) -> int:
  return sum(
      "image/png" in output.get("data", {})
      for cell in notebook.cells for output in cell.get("outputs", [])
  )


@pytest.fixture
def notebook():
  return nbformat.read(_PATH, as_version=4)


def test_it_is_stored_without_outputs(notebook):
  """And it is valid, opens in Colab, and installs only what is missing."""
  nbformat.validate(notebook)
  assert all(not cell.get("outputs") for cell in notebook.cells)
  assert all(cell.get("execution_count") is None for cell in notebook.cells)
  first, install = notebook.cells[0].source, notebook.cells[1].source
  assert "colab.research.google.com/github/" in first
  assert "notebooks/diffai_jax.ipynb" in first
  assert "find_spec" in install and "%pip install" in install


def test_the_whole_of_it(notebook, tmp_path, monkeypatch):
  """No cell fails or warns; it trains, proves, and draws three pictures."""
  done = _execute(notebook, tmp_path, monkeypatch)
  text = _texts(done)
  assert "Warning" not in text and "warning:" not in text
  assert _pictures(done) == 3
  # Of the bars, each of which is one output, only the last state is left.
  bars = re.findall(r"training: (\d+)/(\d+) steps", text)
  assert len(bars) == 2 and all(now == total for now, total in bars)
  proved = [
      float(x) for x in re.findall(r"^(?:Mix|Point) .*proved ([\d.]+)$", text,
                                   re.MULTILINE)
  ]
  assert len(proved) == 2 and proved[0] > 0.5 > 0.1 > proved[1]
  assert not list(tmp_path.iterdir())


def test_the_command_in_a_notebook_leaves_the_kernel(tmp_path, monkeypatch):
  """%run neither restarts the kernel nor takes its signals, twice in one."""
  command = (
      "%run -m diffai_jax.main --"
      f" --config={_ROOT}/configs/quickstart.py"
      " --config.network=FFNN --config.epochs=0.05"
      " --config.certify.examples=2 --config.certify.attack.steps=1"
      " --config.certify.methods=Box"
  )
  cells = [
      "import os, signal, warnings, diffai_jax.app.huge_pages as pages\n"
      "pages.environment = lambda current: dict(current) | {'ANOTHER': '1'}\n"
      "numbers = (signal.SIGINT, signal.SIGTERM)\n"
      "def state():\n"
      "  everything = ('ignore', None, Warning, None, 0)\n"
      "  handlers = [signal.getsignal(number) for number in numbers]\n"
      "  return os.getpid(), handlers, everything in warnings.filters\n"
      "before = state()\n"
      "os.environ['HOME'] = os.getcwd()",
      f"{command} --workdir=first",
      f"{command} --workdir=second --config.seed=1",
      "print('the same' if state() == before else (before, state()))",
  ]
  notebook = nbformat.v4.new_notebook(
      cells=[nbformat.v4.new_code_cell(cell) for cell in cells]
  )
  text = _texts(_execute(notebook, tmp_path, monkeypatch))
  assert text.rstrip().endswith("the same"), text
  assert text.count("verified accuracy, Box") == 2
  for name in ("first", "second"):
    assert (tmp_path / name / "certification.json").exists()
