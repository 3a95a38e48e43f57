"""`--mode=certify` by two processes, of a run that one process had begun."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
import tiny_config

from diffai_jax.app import certify_run, config_file, train
from diffai_jax.networks import NETWORKS
from diffai_jax.storage import journal
from diffai_jax.verification import certification

_EPSILON = 0.03


class _Killed(BaseException):
  pass


@pytest.fixture(autouse=True, scope="module")
def _no_network_is_left():
  """What the config adds to the networks is gone afterwards."""
  before = dict(NETWORKS)
  yield
  NETWORKS.clear()
  NETWORKS.update(before)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> pathlib.Path:
  return tiny_config.write(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def begun(file, tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
  """A run whose certification was killed, and a copy where it was not."""
  killed, whole = (tmp_path_factory.mktemp(n) / "run" for n in ("two", "one"))
  config = lambda: config_file.load(str(file), [])
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(certify_run, "certify_state", lambda *args: None)
    train.train_and_certify(config(), str(killed))
  shutil.copytree(killed, whole)
  for folder, blocks in ((whole, 100), (killed, 5)):
    other = config()
    other.epsilon = _EPSILON
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(journal.Journal, "append", _killing(blocks))
      try:
        certify_run.certify_checkpoint(other, str(folder))
      except _Killed:
        assert folder == killed
  return killed, whole


def _killing(blocks: int):
  """Appends to the journal so often; then the process ends."""
  append, done = journal.Journal.append, []

  def function(self, *args):
    if len(done) == blocks:
      raise _Killed
    append(self, *args)
    done.append(args)

  return function


def test_two_processes_go_on_where_one_was(begun, file):
  """Process 0 alone writes and prints; what was measured stays as it was."""
  killed, whole = begun
  place = pathlib.Path("certifications", f"epsilon_{_EPSILON}")
  blocks = killed / place / "certification.blocks"
  # The prediction and the attack, of ten images and of two; and Box of ten.
  assert len(blocks.read_bytes().splitlines()) == 1 + 5
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  both = [
      subprocess.Popen(
          [
              sys.executable, "-m", "diffai_jax.main", f"--config={file}",
              "--mode=certify", f"--workdir={killed}",
              f"--config.epsilon={_EPSILON}",
              f"--config.distributed={address},2,{process}",
          ],
          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
      )
      for process in range(2)
  ]
  said = [process.communicate(timeout=300) for process in both]
  assert [process.returncode for process in both] == [0, 0], said
  assert "verified accuracy" in said[0][0].replace("_", " ").lower(), said
  assert said[1] == ("", "")
  assert not blocks.exists() and (killed / "report.html").exists()
  two, one = (certification.load_arrays(str(f / place)) for f in begun)
  assert two.keys() == one.keys()
  for name, array in two.items():
    assert array.tobytes() == one[name].tobytes(), name
  summaries = [certification.load_summary(str(f / place)) for f in begun]
  for key in ("identity", "verified_accuracy", "attacked_accuracy", "failed"):
    assert summaries[0][key] == summaries[1][key]
