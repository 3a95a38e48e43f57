"""The command line: what it prints, and one line for each user's error."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

from absl import flags
from absl.testing import flagsaver
import pytest

from diffai_jax import main
from diffai_jax.training.cost import StepCost

_ROOT = pathlib.Path(__file__).parents[1]
_CONFIGS = sorted(
    path.name for path in (_ROOT / "configs").glob("*.py")
    if path.name != "common.py"
)
# What their steps cost would take a quarter of a minute each.
_LONG_TO_TRACE = (
    "densenet100.py", "resnet18.py", "resnet34.py", "resnet_large.py",
    "skipnet18.py",
)
_QUICKSTART = f"--config={_ROOT / 'configs' / 'quickstart.py'}"


@dataclasses.dataclass(frozen=True)
class _Result:
  code: int
  out: str
  err: str


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
  """Runs the program in this process, in an empty current folder."""
  monkeypatch.chdir(tmp_path)

  def run(*arguments: str) -> _Result:
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    with flagsaver.flagsaver():
      flags.FLAGS.unparse_flags()
      for name in ("config", "workdir", "mode"):
        flags.FLAGS[name].unparse()
      with pytest.raises(SystemExit) as caught:
        main.run()
    code = caught.value.code
    return _Result(code or 0, *capsys.readouterr())

  return run


def _assert_user_error(result: _Result, *texts: str) -> None:
  """Exit code 1, stdout empty, one message, which has all the texts."""
  assert result.code == 1, result
  assert result.out == ""
  assert result.err.startswith("error: ")
  assert result.err.count("error: ") == 1
  assert "Traceback" not in result.err
  assert result.err.count("\n") == 1, result.err
  for text in texts:
    assert text in result.err


@pytest.mark.parametrize("name", _CONFIGS)
def test_describe_lists_each_config(command, tmp_path, monkeypatch, name):
  """The paper's listing, the sizes, the objective and ε; nothing written."""
  if name in _LONG_TO_TRACE:
    cost = StepCost(1e9, 2**30)
    monkeypatch.setattr("diffai_jax.app.job.step_cost", lambda *_: cost)
  result = command("--mode=describe", f"--config={_ROOT / 'configs' / name}")
  assert (result.code, result.err) == (0, "")
  lines = result.out.splitlines()
  assert re.fullmatch(r"Normalize mean=\[.*\] std=\[.*\]", lines[0])
  assert re.fullmatch(r"Linear out=\d+", lines[-7])
  sizes = [re.fullmatch(pattern, line) for pattern, line in zip(
      (r"ReLUs: \d+", r"Parameters: \d+", r"Depth: \d+", r"Objective: .+",
       r"Epsilon: 0\.\d+", r"Training step: about .+ for \d+ images"),
      lines[-6:],
  )]
  assert all(sizes), lines[-6:]
  assert not list(tmp_path.iterdir())


def test_describe_convsmall_is_the_papers_listing(command):
  """ConvSmall on MNIST: its layers and sizes as the paper gives them."""
  result = command(
      "--mode=describe", f"--config={_ROOT / 'configs' / 'convsmall.py'}"
  )
  assert result.out.splitlines()[:-3] == [
      "Normalize mean=[0.1307] std=[0.3081]",
      "Conv2D, filters=16, kernel_size=[4, 4], input_shape=[28, 28, 1],"
      " stride=[2, 2], padding=0",
      "ReLU",
      "Conv2D, filters=32, kernel_size=[4, 4], input_shape=[13, 13, 16],"
      " stride=[2, 2], padding=0",
      "ReLU",
      "Linear out=100",
      "ReLU",
      "CorrelateAll only_train=False",
      "Linear out=10",
      "ReLUs: 3604",
      "Parameters: 89606",
      "Depth: 3",
  ]


def test_of_several_processes_the_first_one_describes(command):
  result = command(
      "--mode=describe", _QUICKSTART, "--config.distributed=127.0.0.1:1234,2,0"
  )
  assert (result.code, result.err) == (0, "")
  assert "Objective: " in result.out


@pytest.mark.parametrize("mode", ("describe", "report", "verify"))
def test_what_one_process_does_is_not_done_by_the_others(command, mode):
  """Nor do they wait for the first one, of which there is none here."""
  arguments = {
      "describe": [_QUICKSTART], "report": ["--workdir=run"],
      "verify": ["--config.network=net.onnx", "--property=P.vnnlib"],
  }[mode]
  result = command(
      f"--mode={mode}", *arguments, "--config.distributed=127.0.0.1:1234,2,1"
  )
  assert result == _Result(0, "", "")


def test_describe_takes_variants_and_overrides(command):
  """The last word is the command line's."""
  result = command(
      "--mode=describe",
      f"--config={_ROOT / 'configs' / 'convsmall.py'}:cifar10,2/255",
      "--config.goal=Mix(Point, Box, 0.5)", "--config.network=ffnn",
  )
  assert (result.code, result.err) == (0, "")
  assert result.out.splitlines()[-6:-1] == [
      "ReLUs: 500", "Parameters: 348710", "Depth: 5",
      "Objective: Mix(Point, Box, 0.5)", "Epsilon: 0.00784314",
  ]


@pytest.mark.parametrize("arguments, texts", [
    (["--workdirr=x"], ["workdirr", "workdir"]),
    (["--mode=trian"], ["trian", "train"]),
    (["--config.epsilonn=1"], ["epsilonn", "epsilon"]),
    (["--config.optimizer.learning_rat=1"],
     ["learning_rat", "learning_rate"]),
    (["--config.epsilon=abc"], ["epsilon", "'abc'"]),
    (["--config.epsilon=2"], ["epsilon is 2", "from 0 to 1"]),
    (["--config.batch_size=2.5"], ["batch_size", "2.5"]),
    (["--config.batch_size=-1"], ["batch_size is -1"]),
    (["--config.network=ConvMedd"], ["ConvMedd", "ConvMed", "FFNN"]),
    (["--config.dataset=digitss"], ["digitss", "digits", "mnist"]),
    (["--config.certify.methods=('Boxx',)"], ["Boxx", "Box", "HBox"]),
    (["--config.optimizer.name=adamm"], ["adamm", "adam"]),
    (["--config.batch_size=2000"], ["batch_size is 2000", "1437"]),
    (["--config.train_split=trainn"], ["trainn"]),
    (["train"], ["train", "--"]),
    (["--config.lr=1"], ["'lr'", "'optimizer.learning_rate'"]),
    (["--config.learning_rate=1"], ["'optimizer.learning_rate'"]),
    (["--config.optimizer.epochs=1"], ["'epochs'"]),
    (["--learning_rate=1"], ["--config.optimizer.learning_rate="]),
    (["--config.optimizer=1"], ["group of keys", "--config.optimizer."]),
    (["--config.epochs=1e23"], ["epochs is 1e+23", "2147483647"]),
    (["--config.epochs=1e9"], ["epochs is 1000000000.0", "steps"]),
    (["--config.augment.crop_padding=2147483648"], ["crop_padding", "to 8;"]),
    (["--config.certify.attack.steps=18446744073709551616"],
     ["steps is 18446744073709551616"]),
    (["--config.batch_size=" + "9" * 400], ["batch_size is 1e", "2147483647"]),
    (["--config.batch_size=" + "9" * 5000], ["batch_size is '999"]),
    (["--config.seed="], ["seed is ''", "whole number"]),
    (["--config.seed"], ["--config.seed has no value"]),
    (["--config.network=None"], ["unknown network 'None'"]),
    (["--config.network=" + "x" * 200_000], ["unknown network 'xxx", "..."]),
    (["--config.bfloat16=maybe"], ["bfloat16 is 'maybe'", "true or false"]),
    (["--noconfig.seed"], ["--noconfig.", "--config.seed="]),
    (["--config.train_split=train[5:3]"], ["has no examples"]),
    (["--config.certify.methods=HBx"], ["'HBx'", "HBox"]),
    (["--config.certify.domains=Box"],
     ["'certify.domains'", "--config.certify.methods="]),
    (["--workdir=\udcff"], ["--workdir is '\\udcff'", "UTF-8"]),
    (["--workdir=" + "x" * 5000], ["--workdir is 'xxx", "bytes"]),
    (["--config.data_dir=\udcff"], ["data_dir is '\\udcff'", "UTF-8"]),
    (["--config.goal=\x1b[2J"], ["unexpected character '\\x1b'"]),
])
def test_each_error_is_one_message(command, tmp_path, arguments, texts):
  """It names what was given and what was meant; nothing is written."""
  result = command(_QUICKSTART, "--workdir=run", *arguments)
  if "goal" in arguments[0]:  # Below it stands the text.
    result = dataclasses.replace(result, err=result.err.split("\n")[0] + "\n")
  _assert_user_error(result, *texts)
  assert result.err[:-1].isprintable() and len(result.err) < 1000
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, texts", [
    ([f"{_QUICKSTART}:mnits"], ["mnits", "mnist"]),
    ([f"{_QUICKSTART}:mnist,abc"], ["abc"]),
    ([f"{_QUICKSTART}:mnist,1/0"], ["1/0", "8/255"]),
    (["--config=missing.py"], ["missing.py"]),
    (["--config=missing.py", "--config.seed=1"], ["missing.py"]),
    (["--config=."], ["'.' is a folder"]),
    (["--config=/dev/null"], ["'/dev/null' is no file"]),
    (["--config=\udcff.py"], ["--config is '\\udcff.py'", "UTF-8"]),
    (["--config="], ["config"]),
    ([], ["--config is missing", "--config=configs/"]),
])
def test_an_unusable_config_is_one_message(command, tmp_path, arguments, texts):
  """Missing files and bad variants too."""
  result = command("--workdir=run", *arguments)
  _assert_user_error(result, *texts)
  assert not list(tmp_path.iterdir())


def test_a_missing_workdir_is_one_message(command, tmp_path):
  """Every mode that needs the folder says so; describe does not."""
  for mode in ("train", "certify", "report"):
    result = command(_QUICKSTART, f"--mode={mode}")
    _assert_user_error(result, "--workdir is missing", f"--mode={mode}")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text, column", [
    ("Mix(Point, Bx, 0.5)", 12), ("Mix(Point, Box", 4), ("Sub(Box, 1)", 5),
    ("Mix(Point, Box, 0.5) + 1", 1), ("Point; Box", 6),
])
def test_a_broken_objective_is_marked(command, tmp_path, text, column):
  """Below the message stands the text, and a caret under the place."""
  result = command(_QUICKSTART, "--workdir=run", f"--config.goal={text}")
  first, shown, caret = result.err.splitlines()
  _assert_user_error(
      _Result(result.code, result.out, first + "\n"), "goal: ",
      f"column {column}",
  )
  assert shown == text
  assert caret == " " * (column - 1) + "^"
  assert not list(tmp_path.iterdir())


def test_missing_data_is_one_message_and_a_remedy(command, tmp_path):
  """The error names the folder; below it stands the command that helps."""
  (tmp_path / "data").mkdir()
  result = command(
      f"{_QUICKSTART}:mnist", "--workdir=run", "--config.data_dir=data"
  )
  first, remedy = result.err.splitlines()
  _assert_user_error(
      _Result(result.code, result.out, first + "\n"), "mnist", "data",
      "--config.data_dir",
  )
  assert "download_and_prepare" in remedy and "mnist" in remedy
  assert [path.name for path in tmp_path.iterdir()] == ["data"]
  assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("mode", ["report", "certify"])
def test_an_empty_folder_has_nothing_to_show(command, tmp_path, mode):
  """Nor has one that does not exist."""
  (tmp_path / "empty").mkdir()
  for folder in ("empty", "missing"):
    result = command(_QUICKSTART, f"--mode={mode}", f"--workdir={folder}")
    _assert_user_error(result, folder)
  assert [path.name for path in tmp_path.iterdir()] == ["empty"]
  assert not list((tmp_path / "empty").iterdir())


def test_another_runs_folder_is_refused(command, tmp_path):
  """The error names what differs, and how it was and is."""
  (tmp_path / "run").mkdir()
  file = tmp_path / "run" / "config.json"
  file.write_text('{"seed": 12345}')
  result = command(_QUICKSTART, "--workdir=run")
  _assert_user_error(result, "run", "belongs to another run")
  assert file.read_text() == '{"seed": 12345}'
  assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


@pytest.mark.parametrize("content, text", [
    ("def get_config(:\n", "broken.py"),
    ("import no_such_module\n", "no_such_module"),
    ("x = 1\n", "get_config"),
    ("def get_config(variant=''):\n  return 3 / 0\n", "division"),
    ("def get_config(variant=''):\n  return int('x')\n", "invalid literal"),
    ("def get_config(variant=''):\n  pass\n", "broken.py"),
    ("from ml_collections import ConfigDict\n"
     "def get_config(variant=''):\n  return ConfigDict({'network': 'FFNN'})\n",
     "base_config"),
    ("def get_config(variant=''):\n  exit(3)\n", "SystemExit in line 2: 3"),
    ("x = 1\nx =\n", "SyntaxError in line 2: invalid syntax;"),
    ("\x00\x01", "null bytes"),
    ("def get_config():\n  open('none')\n", "FileNotFoundError in line 2"),
    ("get_config = 3\n", "get_config()"),
    ("raise Exception('a\\nb\\x1b' + 'x' * 10**6)", r"a\nb\x1bxxx"),
    ("from diffai_jax.app.config import base_config\n"
     "def get_config():\n  c = base_config()\n  c.learnin_rate = 1\n"
     "  return c\n", "unknown config key 'learnin_rate'; did you mean"
     " 'optimizer.learning_rate'?"),
    ("from diffai_jax.app.config import base_config\n"
     "def get_config():\n  c = base_config()\n  c.epochs = 10**400\n"
     "  return c\n", "OverflowError in line 4"),
])
def test_a_broken_config_file_is_one_message(command, tmp_path, content, text):
  """A config file is a program of the user's: its error is told, in a line."""
  (tmp_path / "broken.py").write_text(content)
  result = command("--config=broken.py", "--workdir=run")
  _assert_user_error(result, text)
  assert len(result.err) < 1000
  assert not (tmp_path / "run").exists()


def test_a_config_file_that_is_binary(command, tmp_path):
  """Whatever its name."""
  (tmp_path / "picture.png").write_bytes(bytes(range(256)))
  _assert_user_error(
      command("--config=picture.png", "--workdir=run"), "picture.png"
  )


def test_a_tilde_is_ones_home(command, tmp_path, monkeypatch):
  """Also where no shell has expanded it."""
  monkeypatch.setenv("HOME", str(tmp_path / "home"))
  result = command(_QUICKSTART, "--workdir=~/run", "--mode=certify")
  _assert_user_error(result, str(tmp_path / "home" / "run"))


def _shell(*arguments: str, cwd: pathlib.Path) -> _Result:
  path = os.pathsep.join(filter(None, (
      str(_ROOT), os.environ.get("PYTHONPATH")
  )))
  run = subprocess.run(
      [sys.executable, "-m", "diffai_jax.main", *arguments],
      env=os.environ | {"PYTHONPATH": path}, cwd=cwd,
      capture_output=True, text=True, timeout=300, check=False,
  )
  return _Result(run.returncode, run.stdout, run.stderr)


def test_a_run_from_the_shell(tmp_path):
  """Train and certify; then a broken checkpoint is one message.

  As a user starts it: no warning and no chatter of a library is printed.
  """
  arguments = (
      _QUICKSTART, "--workdir=run", "--config.network=FFNN",
      "--config.epochs=0.1", "--config.certify.examples=3",
      "--config.certify.methods=('Box',)", "--config.certify.attack.steps=1",
  )
  trained = _shell(*arguments, cwd=tmp_path)
  assert (trained.code, trained.err) == (0, "")
  for text in ("Training FFNN", "training: ", "verified accuracy, Box",
               "run/report.html"):
    assert text in trained.out
  summary = json.loads((tmp_path / "run" / "certification.json").read_text())
  assert summary["examples"] == 3

  first, last = sorted((tmp_path / "run" / "checkpoints").iterdir())
  for path in (*first.rglob("*"), *last.rglob("*")):
    if path.is_file():
      path.write_bytes(b"")
  broken = _shell(*arguments, "--mode=certify", cwd=tmp_path)
  _assert_user_error(broken, str(last), str(first))
