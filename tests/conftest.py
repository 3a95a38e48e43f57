"""Fixtures that every test can ask for, and how the suite compiles."""

import ctypes
import gc
import os
import signal
import sys
import tempfile

import jaxlib

# Before JAX starts: nothing but the CPU, and no chatter from TFDS. Programs that
# several tests compile are kept until the tests end, away from the user's own;
# pytest-xdist's workers share those of the process that started them.
if "PYTEST_XDIST_WORKER" not in os.environ:
  _CACHE = tempfile.TemporaryDirectory()
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA's threads share memory that is free again; read when a worker starts.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

# In the background shells ignore Ctrl-C for what they start, which tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Most of the suite's time goes into compiling what then runs for a millisecond.
# So programs are compiled in a quarter of the time and run slower; tests with
# the mark `optimized` are about what the compiler makes of them.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
if jaxlib.__version__.startswith("0.10."):  # Others do not know these flags.
  os.environ["XLA_FLAGS"] = " ".join((
      os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false",
      "--xla_cpu_parallel_codegen_split_count=1",
  ))

import jax
import psutil
import pytest

# Beyond so many bytes, compiled programs that no test runs again are dropped; and
# again when a process has grown by so many since.
_MOST_BYTES, _GROWTH = 2**30, 2**28
_limit = [_MOST_BYTES]


@pytest.fixture
def float64():
  """Runs the test with 64-bit floats, where rounding hides no mistake."""
  before = jax.config.jax_enable_x64
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", before)


@pytest.fixture(autouse=True, scope="module")
def _forgotten_results(request):
  """What a module's functions have cached goes with the module's last test."""
  yield
  for value in vars(request.module).values():
    forget = getattr(value, "cache_clear", None)
    if forget and getattr(value, "__module__", None) == request.module.__name__:
      forget()


@pytest.fixture(autouse=True)
def _bounded_memory():
  """Compiled programs are kept while they fit into a little memory."""
  yield
  if _held() > _limit[0]:
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # The C library gives nothing back by itself.
      ctypes.CDLL(None).malloc_trim(0)
    _limit[0] = max(_MOST_BYTES, _held() + _GROWTH)


def _held() -> int:
  return psutil.Process().memory_info().rss


# Whether XLA optimised all that is in JAX's caches.
_all_optimized = [False]


@pytest.fixture(autouse=True)
def _compiler(request):
  """With the mark `optimized`, XLA optimises as it does for users."""
  if not request.node.get_closest_marker("optimized"):
    _all_optimized[0] = False
    yield
    return
  jax.config.update("jax_disable_most_optimizations", False)
  if not _all_optimized[0]:
    jax.clear_caches()
    _all_optimized[0] = True
  yield
  jax.config.update("jax_disable_most_optimizations", True)


def pytest_configure(config):
  """Says what our marks mean."""
  config.addinivalue_line(
      "markers", "optimized: XLA optimises this test's programs"
  )


def pytest_collection_finish():
  """Python's collector passes over what lives as long as the suite.

  Tracing makes millions of small objects that reference counts free; looking
  for cycles among them took a fifth of the time of what only traces.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)


def pytest_addoption(parser):
  """How long random searches take; benchmarks ask for more."""
  parser.addoption("--networks", type=int, default=4)
  parser.addoption("--points", type=int, default=200)
  parser.addoption("--texts", type=int, default=1500)
