"""What setup.cfg says of the package: needs, versions, extras, licence."""

import ast
import configparser
from importlib import metadata
import pathlib
import re
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGE = _ROOT / "diffai_jax"
_NAMES = {"PIL": "pillow", "sklearn": "scikit-learn", "absl": "absl-py",
          "orbax": "orbax-checkpoint",
          "google": "tensorflow-datasets"}  # Which needs protobuf.


def _setup():
  parser = configparser.ConfigParser()
  parser.read(_ROOT / "setup.cfg", encoding="utf-8")
  return parser


def _lines(text):
  """Names and lower bounds: "jax[cuda12]>=0.10.2" is ("jax", "0.10.2")."""
  found = {}
  for line in text.split():
    name, _, bound = line.partition(">=")
    found[_plain(name.partition("[")[0])] = bound
  return found


def _plain(name):
  return name.lower().replace("_", "-")


def _numbers(version):
  return tuple(map(int, re.findall(r"\d+", version)))


_NEEDS = _lines(_setup()["options"]["install_requires"])
_EXTRAS = {k: _lines(v) for k, v in _setup()["options.extras_require"].items()}


def _imported():
  """The packages that the package's files import."""
  for path in _PACKAGE.rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
      if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
      elif isinstance(node, ast.ImportFrom):
        yield node.module.partition(".")[0]


def test_what_is_imported_is_needed():
  theirs = set(_imported()) - set(sys.stdlib_module_names) - {"diffai_jax"}
  named = {_plain(_NAMES.get(name, name)) for name in theirs}
  optional = set().union(*(_EXTRAS[k] for k in _EXTRAS if k != "test"))
  assert named - optional - set(_NEEDS) == set()
  # Needed by others of the list, at versions that fit each other; and chex, which
  # belongs to the packages that every part of the project may count on.
  assert set(_NEEDS) - named <= {
      "jaxlib", "importlib-resources", "array-record", "chex"
  }


@pytest.mark.parametrize("name, bound", [
    *_NEEDS.items(),
    *(pair for extra in ("test", "notebook") for pair in _EXTRAS[extra].items()),
])
def test_versions_were_tried(name, bound):
  """Every need has a lower bound, and these tests run with no older one."""
  try:
    installed = metadata.version(name)
  except metadata.PackageNotFoundError:
    assert name not in _NEEDS
    pytest.skip(f"{name} is not installed")
  assert bound and _numbers(bound) <= _numbers(installed)


def test_extras_are_those_of_the_readme():
  readme = (_ROOT / "README.md").read_text("utf-8")
  named = set(re.findall(r"^\| `([a-z0-9]+)` \|", readme, re.MULTILINE))
  assert set(_EXTRAS) == {
      "benchmark", "cuda12", "gcs", "notebook", "onnx", "tensorflow", "test"
  } == named


def test_types_and_licence_are_part_of_it():
  setup = _setup()
  assert setup["options.package_data"]["diffai_jax"] == "py.typed"
  assert (_PACKAGE / "py.typed").is_file()
  first = (_ROOT / "LICENSE").read_text("utf-8").splitlines()[0]
  assert first == f"SPDX-License-Identifier: {setup['metadata']['license']}"
