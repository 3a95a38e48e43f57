"""The front door where the command line's packages are not installed."""

import os
import subprocess
import sys

_BLOCKED = (
    "ml_collections", "tensorflow_datasets", "array_record",
    "tensorboardX", "sklearn", "matplotlib", "onnx", "onnxruntime", "PIL",
)
_PROGRAM = """
import sys

class Refuse:
  def find_spec(self, name, path=None, target=None):
    if name.partition(".")[0] in {blocked}:
      raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Refuse())
import numpy as np
import diffai_jax as dj

random = np.random.default_rng(0)
images = random.random((40, 2, 2, 1)).astype("f")
labels = (images[:, 0, 0, 0] > 0.5).astype(int)
network = dj.nn.Sequential(
    [dj.nn.Flatten(), dj.nn.Linear(4), dj.nn.ReLU(), dj.nn.Linear(2)]
)
arguments = dict(
    goal="Mix(Point, Box, 0.5)", epsilon=0.01, learning_rate=0.05,
    batch_size=20, progress=False,
)
run = dj.train(network, (images, labels), epochs=2, **arguments)
kept = dj.train(
    network, (images, labels), epochs=1, workdir={folder!r}, **arguments
)
kept = dj.train(
    network, (images, labels), epochs=2, workdir={folder!r}, **arguments
)
again = dj.load({folder!r})
same = "params/layers_1/kernel"
for one in (kept, again):
  np.testing.assert_array_equal(
      one.variables["params"]["layers_1"]["kernel"],
      run.variables["params"]["layers_1"]["kernel"],
  )
assert again.config.optimizer.learning_rate == 0.05
found = dj.certify(again, images, labels, dj.Linf(0.01), methods=["Box"])
print(found.summary()["verified_accuracy"])
missing = {blocked} & {{name.partition(".")[0] for name in sys.modules}}
assert not missing, missing
try:
  dj.train(network, (images, labels), epochs="many")
except ValueError as error:
  assert "epochs is 'many'" in str(error)
else:
  raise AssertionError
"""


def test_training_and_certifying_need_few_packages(tmp_path):
  """Also in a work folder, which the same run with all packages reads."""
  program = _PROGRAM.format(blocked=set(_BLOCKED), folder=str(tmp_path / "run"))
  done = subprocess.run(
      [sys.executable, "-c", program], capture_output=True, text=True,
      timeout=300, env=os.environ, check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.startswith("{'Box': ")
  assert "tensorboardX is not installed" in done.stderr
