"""Config files: their variants, the flags that they see, what they import."""

import ast
import pathlib
import re
import sys

import pytest

from diffai_jax.app import command_line, config_file
from diffai_jax.types import UsageError

_BEGIN = "from diffai_jax.app.config import base_config\n"


def write(folder, text, name="c.py"):
  (folder / name).write_text(text)
  return str(folder / name)


def test_a_file_whose_kinds_are_others_is_no_hindrance(tmp_path):
  """A flag's value replaces what the file says, of whatever type."""
  path = write(
      tmp_path,
      _BEGIN +
      "def get_config(variant='x'):\n"
      "  config = base_config()\n"
      "  config.data_dir = variant\n"
      "  with config.ignore_type():\n"
      "    config.epochs = 'many'\n"
      "  return config\n"
  )
  config = config_file.load(f"{path}:a:b")
  assert (config.data_dir, config.is_locked) == ("a:b", True)
  assert config_file.load(path).data_dir == "x"
  command_line.apply(config, [("epochs", "3")])
  assert config.epochs == 3.0 and config.is_locked
  assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize("arguments, seen", [
    ("seeds=3", {"seeds": 3}),
    ("variant='', epsilon=None", {"variant": "", "epsilon": 8 / 255}),
    ("*, dataset='x', seed=3", {"dataset": "digits", "seed": 3}),
    ("variant='x', **flags",
     {"variant": "x", "flags": {
         "epsilon": 8 / 255, "dataset": "digits",
         "optimizer.milestones": (1, 2)}}),
    ("", {}),
])
def test_get_config_gets_the_flags_that_it_has_arguments_for(
    tmp_path, arguments, seen
):
  """As values, the last of each; what it has no argument for, it does not."""
  path = write(
      tmp_path,
      _BEGIN +
      f"def get_config({arguments}):\n"
      "  seen = repr(locals())\n"
      "  config = base_config()\n"
      "  config.data_dir = seen\n"
      "  return config\n"
  )
  changes = [
      ("epsilon", "0.3"), ("dataset", "digits"), ("epsilon", "8/255"),
      ("optimizer.milestones", "1"), ("optimizer.milestones", "2"),
  ]
  found = config_file.load(path, changes)
  assert ast.literal_eval(found.data_dir) == seen
  assert found.epsilon == 0.1  # Flags change the config afterwards.


@pytest.mark.parametrize("change, text", [
    (("epsilon", "abc"), "epsilon is 'abc'"), (("epsilon", "-2"), "of at least 0"),
    (("seed", "x"), "seed is 'x'"), (("dataset", "minst"), "mnist"),
])
def test_wrong_values_of_flags_are_refused_before_the_file_sees_them(
    tmp_path, change, text
):
  path = write(
      tmp_path,
      _BEGIN +
      "def get_config(**flags):\n"
      "  return base_config(flags=flags)\n"
  )
  with pytest.raises(UsageError, match=text):
    config_file.load(path, [change])


def test_the_readmes_file(tmp_path):
  """It depends on ε, from wherever that comes; flags win."""
  readme = pathlib.Path(__file__).parents[2] / "README.md"
  code, = re.findall(
      r"```python\n([^`]*def get_config[^`]*)```", readme.read_text("utf-8")
  )
  path = write(tmp_path, code)
  assert config_file.load(path).batch_norm
  assert not config_file.load(f"{path}:2/255").batch_norm
  changes = [("epsilon", "0.3"), ("batch_norm", "false"), ("dataset", "mnist")]
  config = config_file.load(path, changes)
  assert (config.dataset, config.batch_norm) == ("mnist", True)
  command_line.apply(config, changes)
  assert (config.epsilon, config.batch_norm) == (0.3, False)


def test_a_file_imports_its_neighbours(tmp_path):
  """Of its own folder, at its top or when called; and leaves no trace."""
  path_before, modules_before = list(sys.path), set(sys.modules)
  for number, name in enumerate(("first", "second")):
    folder = tmp_path / name
    folder.mkdir()
    write(folder, f"SEED = {number}\n", "shared.py")
    write(folder, f"EPOCHS = {number}.5\n", "later.py")
    path = write(
        folder,
        "import shared\n" + _BEGIN +
        "def get_config():\n"
        "  import later\n"
        "  config = base_config()\n"
        "  config.seed, config.epochs = shared.SEED, later.EPOCHS\n"
        "  return config\n"
    )
    config = config_file.load(path)
    assert (config.seed, config.epochs) == (number, number + 0.5)
  assert sys.path == path_before
  assert not {"shared", "later"} & (set(sys.modules) - modules_before)


def test_what_a_neighbour_raises_is_told_with_the_files_line(tmp_path):
  write(tmp_path, "raise ValueError('no luck')\n", "shared.py")
  path = write(tmp_path, "\nimport shared\n")
  with pytest.raises(UsageError, match="ValueError in line 2: no luck"):
    config_file.load(path)
