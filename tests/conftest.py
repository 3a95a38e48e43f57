"""Fixtures that every test can ask for."""

import os
import tempfile

# Before JAX starts: nothing but the CPU, and no chatter from TFDS. Programs that
# several tests compile are kept until the tests end, away from the user's own;
# pytest-xdist's workers share those of the process that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest


@pytest.fixture
def float64():
  """Runs the test with 64-bit floats, where rounding hides no mistake."""
  before = jax.config.jax_enable_x64
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", before)


def pytest_addoption(parser):
  """How long the search for counterexamples in random networks takes."""
  parser.addoption("--networks", type=int, default=4)
  parser.addoption("--points", type=int, default=200)
