"""The house: every file imports only from what lies below it."""

import ast
import pathlib

import pytest

_PACKAGE = pathlib.Path(__file__).parents[1] / "diffai_jax"

# Floors from the ground up, rooms in order. A room may use every floor below
# its own, and the earlier rooms of its floor. A new file is placed here.
_FLOORS = (
    ("types", "terms", "suggest", "paths", "files", "sealed", "journal",
     "memory", "interrupts", "lock",
     "huge_pages", "xla",
     "schedules", "arithmetic", "optax_schedules"),
    (
        "domains.rounding",
        "domains.identity",
        "domains.precision",
        "domains.windows",
        "domains.generators",
        "domains.symbols",
        "domains.merging",
        "domains.hybrid_zonotope",
        "domains.product",
    ),
    (
        "transformers.dispatch",
        "transformers.matrices",
        "transformers.taps",
        "transformers.kernel_gradient",
        "transformers.overlap",
        "transformers.winograd",
        "transformers.images",
        "transformers.window_convolution",
        "transformers.convolution",
        "transformers.affine_rule",
        "transformers.affine",
        "transformers.correlation",
        "transformers.decorrelation",
        "transformers.relaxation",
        "transformers.relu",
        "transformers.activations",
        "transformers.pooling",
        "transformers.structure",
        "transformers.sharing",
        "transformers.joining",
    ),
    ("losses", "attacks", "regularizers"),
    (
        "nn.initializers",
        "nn.naming",
        "nn.observation",
        "nn.checks",
        "nn.layers",
        "nn.activations",
        "nn.dropout",
        "nn.batch_norm",
        "nn.blocks",
        "nn.abstract",
        "nn.deep_loss",
    ),
    (
        "networks.assembly",
        "networks.abstract_layers",
        "networks.convnets",
        "networks.resnets",
        "networks.densenet",
        "networks.registry",
        "networks.describe",
        "networks.fold",
        "goals.base",
        "goals.points",
        "goals.attacks",
        "goals.regions",
        "goals.combinators",
        "goals.mixtures",
        "goals.phases",
        "goals.syntax",
        "goals.dsl",
        "goals.diffai",
        "goals.schemes",
        "data.datasets",
        "data.splits",
        "data.prepared",
        "data.sources",
        "data.augment",
        "data.batches",
    ),
    ("affine_check", "measures", "programs", "measuring",
     "certification_input", "certification", "certifications"),
    (
        "training.state",
        "training.optimizers",
        "training.step",
        "training.cost",
        "training.array_store",
        "training.snapshot",
        "training.checkpoints",
        "training.saving",
        "training.metrics",
        "config",
        "validation",
    ),
    ("command_line", "console", "workfolder", "report", "unfinished",
     "job", "certify_run", "train"),
    ("main",),
)
# Folders of one floor that know nothing of each other.
_STRANGERS = ("networks", "goals", "data")

_PLACES = {
    room: (floor, place)
    for floor, rooms in enumerate(_FLOORS)
    for place, room in enumerate(rooms)
}


def _rooms() -> dict[str, str]:
  """Source of every room (a module's path with dots), __init__ left out."""
  return {
      ".".join(path.relative_to(_PACKAGE).with_suffix("").parts):
          path.read_text(encoding="utf-8")
      for path in sorted(_PACKAGE.rglob("*.py"))
      if path.name != "__init__.py"
  }


def _imported(source: str) -> set[str]:
  """What of diffai_jax a source imports, wherever in it: rooms, folders.

  A folder (`from diffai_jax.goals import Goal`) brings all its rooms, so it
  counts as each of them. "" stands for the package itself.
  """
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found.update(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      base = "." * node.level + (node.module or "")
      for alias in node.names:
        inner = f"{base}.{alias.name}"
        known = inner.removeprefix("diffai_jax.")
        found.add(inner if known in _PLACES or _within(known) else base)
  names = {
      name for name in found
      if name.startswith(".") or name.split(".")[0] == "diffai_jax"
  }
  return {name.removeprefix("diffai_jax").removeprefix(".")
          if not name.startswith(".") else name for name in names}


def _within(folder: str) -> list[str]:
  return [room for room in _PLACES if room.startswith(folder + ".")]


def _breaches(room: str, source: str) -> list[str]:
  """What the source of a room imports that it must not."""
  found = []
  for name in sorted(_imported(source)):
    targets = [name] if name in _PLACES else _within(name)
    if not targets:
      found.append(f"{room} imports {name or 'diffai_jax'!r}, in no floor")
    for target in targets:
      folders = {room.split(".")[0], target.split(".")[0]}
      strangers = len(folders) == 2 and folders <= set(_STRANGERS)
      if strangers or not _PLACES[target] < _PLACES[room]:
        found.append(f"{room} imports {target}")
  return found


def test_every_file_has_a_place():
  """A file in no floor, and a place without a file, are both mistakes."""
  assert set(_rooms()) == set(_PLACES)


@pytest.mark.parametrize("room, source", _rooms().items(), ids=list(_rooms()))
def test_imports_go_down(room, source):
  """A room imports lower floors and earlier rooms of its floor only."""
  assert room in _PLACES, f"{room} is in no floor; place it in _FLOORS"
  assert not _breaches(room, source)


def test_init_files_only_reexport_their_own_folder():
  """An __init__ has a docstring, imports from its own rooms, and __all__."""
  for path in _PACKAGE.rglob("__init__.py"):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    folder = path.parent.relative_to(_PACKAGE).as_posix()
    if folder == ".":  # The package itself: only a version.
      assert not any(isinstance(n, (ast.Import, ast.ImportFrom))
                     for n in ast.walk(tree)), path
      continue
    assert ast.get_docstring(tree), path
    public = []
    for node in tree.body[1:]:
      if isinstance(node, ast.ImportFrom):
        assert node.level == 0, path
        assert node.module.startswith(f"diffai_jax.{folder}."), path
        public += [alias.asname or alias.name for alias in node.names]
      else:
        assert isinstance(node, ast.Assign), path
        assert [target.id for target in node.targets] == ["__all__"], path
        assert sorted(ast.literal_eval(node.value)) == sorted(public), path


@pytest.mark.parametrize("room, source", [
    ("types", "from diffai_jax import train"),
    ("types", "import diffai_jax.train"),
    ("types", "def f():\n  from diffai_jax.train import Job"),
    ("terms", "from diffai_jax.schedules import Lin"),
    ("losses", "from diffai_jax.nn import Linear"),
    ("nn.layers", "from diffai_jax.nn import abstract"),
    ("nn.layers", "from diffai_jax.nn import Linear"),
    ("goals.points", "from diffai_jax.goals.regions import Box"),
    ("goals.points", "from diffai_jax.networks import create"),
    ("networks.registry", "from diffai_jax.goals import Goal"),
    ("data.sources", "from diffai_jax.networks import create"),
    ("nn.layers", "from . import initializers"),
    ("main", "from diffai_jax.nowhere import anything"),
    ("main", "import diffai_jax"),
    ("train", "from diffai_jax.train import Job"),
])
def test_breaches_are_found(room, source):
  """The walk sees imports of every form, also inside functions."""
  assert _breaches(room, source)


@pytest.mark.parametrize("room, source", [
    ("train", "import os\nfrom diffai_jax import config, report"),
    ("attacks", "from diffai_jax import losses"),
    ("config", "from diffai_jax.training.optimizers import OPTIMIZERS"),
    ("nn.layers", "from diffai_jax.nn import initializers"),
    ("certification", "from diffai_jax.goals import REGIONS"),
])
def test_what_is_allowed(room, source):
  """Lower floors and earlier rooms are free to use, and so is the world."""
  assert not _breaches(room, source)
