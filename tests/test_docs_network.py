"""docs/your_network.md: its code runs in order, and says what it should."""

import pathlib
import re
import shlex
import sys

from absl import flags
from absl.testing import flagsaver
import pytest

from diffai_jax import main, transformers
from diffai_jax.graph import Builder

_ROOT = pathlib.Path(__file__).parents[1]
PAGE = (_ROOT / "docs" / "your_network.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^python -m diffai_jax.main (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder):
  """What the page's code leaves behind, and what each block prints."""
  onnx = pytest.importorskip("onnx")
  from tests import onnx_export

  here, names, printed = pathlib.Path.cwd(), {}, []
  names["print"] = lambda *values: printed.append(" ".join(map(str, values)))
  patch = pytest.MonkeyPatch()
  patch.chdir(folder)
  with patch.context():
    for code in CODE:
      if "digits.onnx" in code:
        graph = names["small"] if "small" in names else names["graph"]
        builder = Builder((1, 8, 8))
        x = transformers.transpose(builder.input, (1, 2, 0))
        onnx.save(onnx_export.export(builder.graph(graph(x))), "digits.onnx")
      exec(compile(code, "your_network.md", "exec"), names)
  patch.undo()
  assert pathlib.Path.cwd() == here
  return names, printed


def test_the_module_is_proved(page):
  names, printed = page
  assert eval(printed[0])["HBox"] > 0.85
  assert len(names["run"].metrics) == 25


def test_the_page_names_what_is_there(page):
  names, printed = page
  layers = list(names["graph"].layers())
  assert {"Conv_0", "BatchNorm_0", "relu_0", "relu_1", "relu_2"} <= set(layers)
  assert names["again"].network.layers[0][0] == "relu_1"
  assert any("sort" in line and "\n" not in line for line in printed)


def test_the_same_network_as_onnx_is_proved(page):
  _, printed = page
  verified = eval(printed[-2])
  assert set(verified) == {"Box", "HBox", "ZDeepZ"}
  assert verified["HBox"] >= verified["Box"] > 0.7


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_commands_are_understood(number, page, folder, monkeypatch, capsys):
  """Up to what takes time."""
  del page  # It makes the file.
  monkeypatch.chdir(folder)
  (folder / "my_package").mkdir(exist_ok=True)
  (folder / "my_package" / "networks.py").write_text(
      CODE[0].split("digits = load")[0]
  )
  monkeypatch.syspath_prepend(str(folder))
  if not (folder / "configs").exists():
    (folder / "configs").symlink_to(_ROOT / "configs")
  words = [*shlex.split(COMMANDS[number]), "--mode=describe"]
  monkeypatch.setattr(sys, "argv", ["main.py", *words])
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as caught:
      main.run()
  told = capsys.readouterr()
  assert not caught.value.code and not told.err
  assert "conv(" in told.out and "Parameters: " in told.out
