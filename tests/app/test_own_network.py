"""config.network = "package.module:Class" and "net.onnx", as the command takes them."""

import json
import sys

from absl import flags
from absl.testing import flagsaver
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffai_jax as dj
from diffai_jax import main, transformers
from diffai_jax.graph import Builder

_MODULE = '''
from flax import linen as nn

class Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(9)(x.reshape(len(x), -1)))
    return nn.Dense(self.num_classes)(x)

class Sorting(nn.Module):
  @nn.compact
  def __call__(self, x):
    import jax.numpy as jnp
    return nn.Dense(10)(jnp.sort(x.reshape(len(x), -1), axis=1))

class Needy(nn.Module):
  wanted: int

nothing = 3
'''
_QUICK = (
    "--config.epochs=1", "--config.train_split=train[:200]",
    "--config.certify.split=test[:6]", "--config.certify.attack.steps=1",
    "--config.batch_size=100", "--config.certify.methods=Box",
    "--config.xla_flags=false", "--config.compilation_cache=",
)


@pytest.fixture
def package(tmp_path, monkeypatch):
  (tmp_path / "my_networks_here.py").write_text(_MODULE)
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.delitem(sys.modules, "my_networks_here", raising=False)
  return "my_networks_here"


def _command(monkeypatch, capsys, *words):
  monkeypatch.setattr(sys, "argv", [
      "main.py", "--config=configs/quickstart.py", *words
  ])
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    try:
      main.run()
      code = 0
    except SystemExit as caught:
      code = caught.code
  return code or 0, capsys.readouterr()


def test_a_class_trains_is_certified_and_loaded(
    package, tmp_path, monkeypatch, capsys
):
  folder = tmp_path / "run"
  code, told = _command(
      monkeypatch, capsys, f"--config.network={package}:Net",
      f"--workdir={folder}", "--config.epsilon=0.01", *_QUICK,
  )
  assert code == 0, told
  summary = json.loads((folder / "certification.json").read_text())
  assert summary["network"] == f"{package}:Net" and summary["examples"] == 6
  run = dj.load(folder)
  assert set(run.variables["params"]) == {"Dense_0", "Dense_1"}
  images = np.zeros((1, 8, 8, 1), np.float32)
  logits = run.network.apply(run.variables, images)
  found = dj.certify(run, images, np.asarray(logits).argmax(1), dj.Linf(0.0))
  assert found.verified["Box"].all()


@pytest.mark.parametrize("name, message", [
    ("{}:Nets", "has no 'Nets'; its Flax modules: Net, Sorting, Needy"),
    ("{}:nothing", "has no 'nothing'"),
    ("{}:Sorting", "sort"),
    ("{}:Needy", "cannot be made"),
    ("no_such_module:Net", "cannot be imported"),
    ("missing.onnx", "missing.onnx"),
    (":Net", "cannot be imported"),
])
def test_mistakes_are_one_line(
    name, message, package, tmp_path, monkeypatch, capsys
):
  code, told = _command(
      monkeypatch, capsys, f"--config.network={name.format(package)}",
      "--mode=describe",
  )
  assert code == 1 and message in " ".join(told.err.split())


def test_layers_of_ours_are_refused(package, monkeypatch, capsys):
  code, told = _command(
      monkeypatch, capsys, f"--config.network={package}:Net",
      "--config.abstract_layers=Combo", "--mode=describe",
  )
  assert code == 1 and "leave --config.abstract_layers out" in " ".join(
      told.err.split()
  )


def test_an_onnx_file_is_certified_as_it_is(tmp_path, monkeypatch, capsys):
  onnx = pytest.importorskip("onnx")
  from tests import onnx_export

  rng = np.random.default_rng(0)
  builder = Builder((1, 8, 8))
  kernel = rng.normal(size=(64, 10)).astype(np.float32)
  x = transformers.reshape(builder.input, (64,))
  output = transformers.dense(x, kernel, np.zeros(10, np.float32))
  path = tmp_path / "net.onnx"
  onnx.save(onnx_export.export(builder.graph(output)), path)
  folder = tmp_path / "run"
  for _ in range(2):  # The second time there is a run.
    code, told = _command(
        monkeypatch, capsys, "--mode=certify", f"--config.network={path}",
        f"--workdir={folder}", "--config.epsilon=0.001", *_QUICK,
    )
    assert code == 0, told
  run = dj.load(folder)
  image = jnp.asarray(rng.uniform(size=(1, 8, 8, 1)), jnp.float32)
  np.testing.assert_allclose(
      run.network.apply(run.variables, image), image.reshape(1, 64) @ kernel,
      rtol=1e-4, atol=1e-5,
  )
  assert jax.tree.leaves(run.variables["params"])
  code, told = _command(
      monkeypatch, capsys, "--mode=describe", f"--config.network={path}",
      "--config.dataset=mnist",
  )
  assert code == 1 and "choose the dataset that it is for" in " ".join(
      told.err.split()
  )
