"""The commands and tables of docs/data.md are so."""

import pathlib
import re
import shlex
import sys

from absl import flags
from absl.testing import flagsaver
import pytest

from diffai_jax import main
from diffai_jax.app import command_line
from diffai_jax.app.config import base_config, keys_of
from diffai_jax.data import DATASETS
from diffai_jax.data.datasets import KINDS

_ROOT = pathlib.Path(__file__).parents[1]
PAGE = (_ROOT / "docs" / "data.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^python -m diffai_jax.main (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(CODE)))
def test_commands_run_on_the_data_that_the_page_makes(
    number, tmp_path, monkeypatch, capsys
):
  """Each block of Python, and its command up to what takes time: training."""
  assert len(COMMANDS) == len(CODE) == 2
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(_ROOT / "configs")
  exec(compile(CODE[number], "data.md", "exec"), {})
  words = [*shlex.split(COMMANDS[number]), "--mode=describe"]
  monkeypatch.setattr(sys, "argv", ["main.py", *words])
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as caught:
      main.run()
  told = capsys.readouterr()
  assert not caught.value.code and not told.err
  assert "Warning" not in told.out
  first, *_, cost = told.out.splitlines()
  mean = "[0.5, 0.25]" if number == 0 else "[0.305]"
  assert first.startswith(f"Normalize mean={mean}") and "for " in cost


def test_keys_and_names_of_the_page():
  command_line.take_changes(["main", *COMMANDS[0].split(), *COMMANDS[1].split()])
  section = PAGE.split("## ε, range")[1]
  keys = re.findall(r"`([\w.]+)`", " ".join(
      line.split("|")[1] for line in section.splitlines()
      if line.startswith("| `")
  ))
  assert set(keys) <= {*keys_of(base_config()), *DATASETS}
  for name in (*DATASETS, *(f"{kind}:{rest}" for kind, rest in KINDS.items())):
    assert f"`{name}`" in PAGE


def test_the_usual_radii():
  rows = re.findall(r"^\| (`.*`) \| ([\d./]+) \|$", PAGE, re.MULTILINE)
  told = {
      name: eval(radius, {})  # 8/255, of this page's own table.
      for names, radius in rows for name in re.findall(r"`(\w+)`", names)
  }
  assert told == {name: data.epsilon for name, data in DATASETS.items()}
