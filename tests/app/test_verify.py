"""--mode=verify: verdicts on networks whose values are known."""

import re

import numpy as np
import onnx
import pytest

from diffai_jax.app import verify
from diffai_jax.types import UsageError
from tests import onnx_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """y = |x_0| + |x_1|, with properties y < 2.5 and y < 1.5 for x in [-1, 1]²."""
  path = tmp_path_factory.mktemp("instances")
  arrays = {
      "w": np.array([[1, -1, 0, 0], [0, 0, 1, -1]], np.float32),
      "v": np.ones((4, 1), np.float32),
  }
  nodes = [
      onnx_models.node("MatMul", ["x", "w"], "h"),
      onnx_models.node("Relu", "h", "r"),
      onnx_models.node("MatMul", ["r", "v"], "y"),
  ]
  model = onnx_models.model(nodes, [1, 2], arrays)
  onnx.save(model, str(path / "sum.onnx"))
  for name, limit in (("holds", 2.5), ("fails", 1.5)):
    declared = "".join(
        f"(declare-const {v} Real)\n" for v in ("X_0", "X_1", "Y_0")
    )
    box = "".join(
        f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))\n" for i in (0, 1)
    )
    (path / f"{name}.vnnlib").write_text(
        f"{declared}{box}(assert (>= Y_0 {limit}))\n"
    )
  return path


def test_lists_are_decided_one_by_one(folder, capsys):
  listed = folder / "instances.csv"
  listed.write_text("sum.onnx,holds.vnnlib,20\nsum.onnx,fails.vnnlib\n")
  verify.run(None, str(listed), 30.0, str(folder / "found.csv"))
  first, second = capsys.readouterr().out.splitlines()
  assert first.startswith("unsat (") and first.endswith("sum.onnx holds.vnnlib")
  assert second.startswith("sat (")
  found = (folder / "found.csv").read_text().splitlines()
  assert re.fullmatch(r"sum\.onnx,holds\.vnnlib,unsat,\d+\.\d\d", found[0])
  assert re.fullmatch(r"sum\.onnx,fails\.vnnlib,sat,\d+\.\d\d", found[1])


def test_a_broken_property_comes_with_its_point(folder, capsys):
  results = folder / "result.txt"
  verify.run(
      str(folder / "sum.onnx"), str(folder / "fails.vnnlib"), 30.0, str(results)
  )
  assert capsys.readouterr().out.startswith("sat (")
  word, rest = results.read_text().split("\n", 1)
  assert word == "sat"
  values = dict(re.findall(r"\(([XY]_\d) (\S+?)\)", rest))
  x = np.array([float(values["X_0"]), float(values["X_1"])])
  assert np.all(np.abs(x) < 1) and np.abs(x).sum() > 1.5
  assert abs(np.abs(x).sum() - float(values["Y_0"])) < 1e-6
  found = onnx_models.run(str(folder / "sum.onnx"), x[None].astype(np.float32))
  assert found[0, 0] >= 1.5


@pytest.mark.parametrize("listed, told", (
    ("sum.onnx", "line 1: expected network,property,seconds"),
    ("sum.onnx,none.vnnlib", "there is no file"),
    ("sum.onnx,holds.vnnlib,-3", "line 1: '-3' are no seconds"),
))
def test_lists_are_checked_before_anything_is_decided(folder, listed, told):
  path = folder / "wrong.csv"
  path.write_text(listed)
  with pytest.raises(UsageError, match=re.escape(told)):
    verify.run(None, str(path), 30.0)


@pytest.mark.parametrize("arguments, told", (
    ((None, None, 1.0), "--property is missing"),
    ((None, "holds.vnnlib", 1.0), "--config.network is missing"),
    (("sum.onnx", "holds.vnnlib", 0.0), "--seconds is 0"),
    (("sum.onnx", "no.vnnlib", 1.0), "there is no file"),
))
def test_what_is_missing_is_told(folder, monkeypatch, arguments, told):
  monkeypatch.chdir(folder)
  with pytest.raises(UsageError, match=re.escape(told)):
    verify.run(*arguments)
