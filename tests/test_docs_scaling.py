"""What docs/scaling.md says is so."""

import pathlib
import re
import shlex
import subprocess

import pytest

from diffai_jax.app import config_file
from diffai_jax.app.job import Job
from diffai_jax.kernels import platforms
from diffai_jax.training.scaling import Model

_ROOT = pathlib.Path(__file__).parents[1]
_TEXT = (_ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
_LINES = [
    line for block in re.findall(r"```\n(.*?)```", _TEXT, re.DOTALL)
    for line in block.splitlines()
]
_SCRIPTS = [line for line in _LINES if line.startswith("bash launch/")]


def _row(first: str) -> list[str]:
  (row,) = re.findall(rf"^\| {re.escape(first)} \| (.*) \|$", _TEXT, re.M)
  return row.split(" | ")


def _numbers(text: str) -> list[float]:
  return [float(n) for n in re.findall(r"[\d.]+", text.replace(",", ""))]


def test_the_table_of_platforms_is_that_of_the_code():
  all_three = (platforms.CPU, platforms.GPU, platforms.TPU)
  for cell, platform in zip(_row("batches of certification"), all_three):
    assert platform.batches[-1] in _numbers(cell)
  on_cpu = _numbers(_row("batches of certification")[0])
  assert platforms.CPU.useful_mib in on_cpu
  for cell, platform in zip(_row("dispatches under way"), all_three):
    assert _numbers(cell)[0] == platform.queued
  for cell, platform in zip(_row("batches"), all_three):
    assert _numbers(cell) == (
        [platform.batches_ahead] if platform.batches_ahead else []
    )
  cpu, *others = map(_numbers, _row("steps in one dispatch"))
  assert cpu == [1] and platforms.CPU.flops is None
  for found in others:
    assert found == [
        platforms._MOST_STEPS, 1000 * platforms._DISPATCH_SECONDS
    ]


@pytest.mark.parametrize("name, text", [
    ("MNIST FFNN", "ffnn.py"), ("MNIST ConvSmall", "convsmall.py:mnist"),
    ("CIFAR FFNN", "ffnn.py:cifar10"),
])
def test_rows_of_the_model_are_what_it_computes(name, text):
  job = Job.from_config(config_file.load(f"{_ROOT}/configs/{text}"))
  model = Model.of(
      job.network, job.dataset.image_shape, job.config.batch_size
  )
  cells = [_numbers(cell)[0] for cell in _row(name)]
  assert cells[:4] == [
      model.parameters, model.relus, model.products, model.batch
  ]
  computed = [
      model.step_flops() / 1e9,
      *(1e3 * model.step_seconds(d, 1e13, 5e10) for d in (1, 8)),
      *(model.bytes_on(d) / 2**20 for d in (1, 8)),
      model.box_flops() / 1e6, model.hbox_flops() / 1e9,
  ]
  for cell, value, digits in zip(cells[4:], computed, (1, 2, 2, 0, 0, 1, 1)):
    assert cell == pytest.approx(value, abs=0.51 * 10**-digits)


@pytest.mark.parametrize("line", _SCRIPTS)
def test_scripts_take_these_flags(line):
  """Each prints command lines of diffai_jax.main that have them."""
  words = shlex.split(line)
  if not (_ROOT / words[1]).is_file():
    pytest.skip(f"{words[1]} is not here")
  done = subprocess.run(
      words, cwd=_ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  for printed in done.stdout.splitlines():
    assert "diffai_jax.main" in printed
    for flag in words[words.index("--") + 1 :]:
      assert flag in printed
