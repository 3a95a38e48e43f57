"""The house: every file imports only from what lies below it."""

import ast
import pathlib
import re

import pytest

import diffai_jax

_PACKAGE = pathlib.Path(__file__).parents[1] / "diffai_jax"

# Floors from the ground up, folders of a floor and rooms of a folder in order. A
# room may use every floor below its own, and what comes earlier on its floor. A
# new file is placed here.
_HOUSE = (
    {
        "": ("types",),
        "check": ("__main__",),
        "processes": (
            "wire", "watch", "exchange", "stop", "environment", "relay",
            "quiet", "connect",
        ),
        "text": ("terms", "lists", "suggest"),
        "storage": (
            "store", "paths", "files", "lines", "older_forms", "sealed", "journal",
            "lock",
        ),
        "kernels": (
            "platforms", "device_memory", "xla", "precision", "loops",
            "geometry", "matrices", "taps", "overlap", "winograd",
            "cpu_images", "images", "adjoint",
        ),
        "schedules": ("piecewise", "arithmetic", "optax_schedules"),
    },
    {
        "domains": (
            "rounding", "long_sums", "identity", "windows", "generators",
            "single_symbols", "merging", "hybrid_zonotope", "product",
        ),
    },
    {
        "transformers.structure": ("window_convolution", "block_convolution"),
        "transformers": (
            "dispatch", "affine_rule", "affine", "correlation", "decorrelation",
            "relaxation", "relu", "smooth", "pooling", "moving", "arranging",
            "sharing", "joining", "curves", "clipping", "products", "softmax",
            "lines",
        ),
    },
    {
        "graph": (
            "graph", "building", "record", "following", "surgery", "saving", "jax_values",
            "jax_constants", "jax_sharing", "jax_moves", "jax_patterns",
            "jax_softmax", "jax_piecewise", "known_functions", "jax_linear",
            "jax_reductions", "jax_arithmetic", "jax_batch_size", "from_jax",
            "onnx_values",
            "onnx_file", "onnx_layers", "onnx_elementwise", "onnx_moves",
            "from_onnx",
        ),
    },
    {
        "losses": ("margins", "regularizers"),
        "regions": (
            "box_bounds", "linf", "l2", "cut", "membership", "examples", "specs",
            "specified",
            "vnnlib_syntax", "vnnlib_formula", "vnnlib",
        ),
        "attacks": (
            "iterated", "attack_losses", "stepwise", "apgd", "fixed_steps",
            "adaptive",
        ),
    },
    {
        "backward": (
            "windows", "pulled", "affine_step", "relaxed_steps", "walk",
            "alpha", "inner",
        ),
        "branching": (
            "settings", "compiling", "decisions", "subdomains", "decided_points",
            "reduced", "scores", "bounding", "cuts", "table", "pool", "roots", "rounds", "falsify", "ledger",
            "relu_splits", "box_points", "narrowing", "input_splits", "search",
            "proofs",
        ),
    },
    {
        "nn": (
            "initializers", "naming", "observation", "checks", "layers",
            "activations", "dropout", "batch_norm", "blocks", "abstract",
            "deep_loss",
        ),
    },
    {
        "networks": (
            "assembly", "abstract_layers", "convnets", "resnets", "densenet",
            "registry", "fold", "graph_network", "plain", "as_graph",
            "certified", "describe",
        ),
        "goals": (
            "base", "points", "attacked", "regions", "walked", "crown", "taps",
            "combinators",
            "mixtures", "active",
        ),
    },
    {
        "objectives": ("syntax", "dsl", "diffai", "schemes"),
        "data": (
            "places", "datasets", "arrays", "splits", "pictures", "folders",
            "tiny_imagenet", "archives", "tfds_folders", "prepared", "sources",
            "augment", "batches", "prefetch",
        ),
    },
    {
        "verification": (
            "memory", "affine_check", "attack_texts", "domain_methods",
            "linear_methods", "branching_method", "methods", "inputs", "measures",
            "program_cache", "programs", "blocks", "searching", "measuring",
            "attacking", "certification_input", "certification",
            "certifications", "layer_bounds", "bisection", "front_door",
        ),
    },
    {
        "training": (
            "state", "optimizers", "step", "cost", "scaling", "array_store", "snapshot",
            "checkpoints", "saving", "metrics", "loop",
        ),
    },
    {
        "app": (
            "process", "huge_pages", "interrupts", "plain_config", "config_dict",
            "config", "data_keys",
            "own_network", "validation", "command_line", "config_file", "console",
            "several", "workfolder", "plot", "report", "schedule_warning", "job",
            "network_file", "certify_run", "train", "run", "arguments", "fit",
            "verify",
        ),
    },
    {"": ("main",)},
)
_FLOORS = tuple(
    tuple(f"{folder}.{room}".removeprefix(".")
          for folder, rooms in floor.items() for room in rooms)
    for floor in _HOUSE
)
# Folders of one floor that know nothing of each other.
_STRANGERS = (
    {"networks", "goals"}, {"objectives", "data"}, {"kernels", "schedules"},
    {"kernels", "storage"}, {"kernels", "processes"},
)

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
      strangers = folders in _STRANGERS
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
    folder = path.parent.relative_to(_PACKAGE).as_posix().replace("/", ".")
    if folder == ".":  # The front door, which loads rooms when they are used.
      imported = [n for n in ast.walk(tree)
                  if isinstance(n, (ast.Import, ast.ImportFrom))]
      assert [ast.unparse(n) for n in imported] == ["import importlib"], path
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
    ("types", "from diffai_jax.app import train"),
    ("types", "import diffai_jax.app.train"),
    ("types", "def f():\n  from diffai_jax.app.train import Job"),
    ("text.terms", "from diffai_jax.schedules import Lin"),
    ("losses.margins", "from diffai_jax.nn import Linear"),
    ("nn.layers", "from diffai_jax.nn import abstract"),
    ("nn.layers", "from diffai_jax.nn import Linear"),
    ("goals.points", "from diffai_jax.goals.regions import Box"),
    ("goals.points", "from diffai_jax.networks import create"),
    ("networks.registry", "from diffai_jax.goals import Goal"),
    ("data.sources", "from diffai_jax.objectives import parse"),
    ("nn.layers", "from . import initializers"),
    ("main", "from diffai_jax.nowhere import anything"),
    ("main", "import diffai_jax"),
    ("app.train", "from diffai_jax.app.train import Job"),
])
def test_breaches_are_found(room, source):
  """The walk sees imports of every form, also inside functions."""
  assert _breaches(room, source)


@pytest.mark.parametrize("room, source", [
    ("app.train", "import os\nfrom diffai_jax.app import config, report"),
    ("attacks.iterated", "from diffai_jax import losses"),
    ("app.config", "from diffai_jax.training.optimizers import OPTIMIZERS"),
    ("nn.layers", "from diffai_jax.nn import initializers"),
    ("verification.certification", "from diffai_jax.goals import REGIONS"),
])
def test_what_is_allowed(room, source):
  """Lower floors and earlier rooms are free to use, and so is the world."""
  assert not _breaches(room, source)


def test_the_front_door_leads_to_rooms_that_exist():
  """Each of its names is one of a room's, or a room or folder itself."""
  for name, place in diffai_jax._DOOR.items():
    room = place.removeprefix("=")
    assert room in _PLACES or _within(room), name
    assert name in dir(diffai_jax)
    assert getattr(diffai_jax, name) is not None
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    diffai_jax.nothing


_ASKING = re.compile(
    r"\b(default_backend|platform_dependent|optimization_barrier|on_cpu"
    r"|jax_platforms)\b|\.platform\b(?!\.)"
)


@pytest.mark.parametrize("room, source", _rooms().items(), ids=list(_rooms()))
def test_no_file_above_the_kernels_asks_for_a_backend(room, source):
  """For speed, at least; `platform_name` is for people's eyes."""
  if not room.startswith("kernels."):
    assert not _ASKING.findall(source)


@pytest.mark.parametrize("source, asks", [
    ('if jax.default_backend() == "cpu":', True),
    ("x = lax.optimization_barrier(x)", True),
    ("lax.platform_dependent(x, cpu=f, default=g)", True),
    ("jax.devices()[0].platform == 'gpu'", True),
    ("platforms.on_cpu(fast, plain, x)", True),
    ('jax.config.jax_platforms == "cpu"', True),
    ("name, release = platform.libc_ver()", False),
    ('f"float32 on {platform_name()}"', False),
    ("platforms.platform_name()", False),
])
def test_questions_for_a_backend_are_found(source, asks):
  assert bool(_ASKING.search(source)) == asks


# Rooms that read and write work folders, which may be in an object store.
_OF_WORK_FOLDERS = re.compile(
    r"training\..*|verification\.certif.*|app\.(workfolder|report|run|train|fit"
    r"|certify_run|network_file)"
)
_OPENING = re.compile(
    r"(?<![.\w])open\(|\bos\.(replace|rename|remove|unlink|listdir|mkdir|makedirs"
    r"|walk|scandir|stat)\b|\bos\.path\.(exists|lexists|isfile|isdir|realpath)\b"
    r"|\bshutil\b|\bpathlib\b"
)


@pytest.mark.parametrize("room, source", _rooms().items(), ids=list(_rooms()))
def test_files_of_work_folders_are_opened_by_storage(room, source):
  if _OF_WORK_FOLDERS.fullmatch(room):
    assert not _OPENING.findall(source)


@pytest.mark.parametrize("source, opens", [
    ('with open(path, "rb") as file:', True), ("os.replace(a, b)", True),
    ("if os.path.lexists(path):", True), ("shutil.copyfile(a, b)", True),
    ("store.opened(path)", False), ("os.path.join(a, b)", False),
    ("Image.open(path)", False),
])
def test_what_opens_files_is_found(source, opens):
  assert bool(_OPENING.search(source)) == opens


def test_the_top_holds_folders_and_three_files():
  """`__init__.py`, `main.py`, `types.py`; everything else has a folder."""
  files = {path.name for path in _PACKAGE.glob("*.py")}
  assert files == {"__init__.py", "main.py", "types.py"}


def test_no_two_test_files_have_one_name():
  """pytest tells files of folders without `__init__.py` apart by their names."""
  names = [path.name for path in _PACKAGE.parent.glob("tests/**/test_*.py")]
  assert sorted(set(names)) == sorted(names)
