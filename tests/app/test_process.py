"""A command owns its process only where it is what the process was started for."""

import pytest

from diffai_jax.app import process

_MODULE = "diffai_jax.main"


def _is_own(*words: str) -> bool:
  return process.is_own(_MODULE, "/x/diffai_jax/main.py", ["python", *words])


@pytest.mark.parametrize("words", [
    ("-m", _MODULE),
    ("-m", _MODULE, "--config=a.py", "-m", "other"),
    ("-m" + _MODULE,),
    ("-Im", _MODULE),
    ("-X", "dev", "-W", "error", "-m", _MODULE),
    ("-Xdev", "-Werror", "-OO", "-m", _MODULE),
    ("-IXdev", "-m", _MODULE),
    ("--check-hash-based-pycs", "always", "-m", _MODULE),
    ("/x/diffai_jax/main.py", "--mode=report"),
    ("-u", "/x/y/../diffai_jax/main.py"),
])
def test_the_command_itself(words):
  assert _is_own(*words)


@pytest.mark.parametrize("words", [
    ("-m", "ipykernel_launcher", "-f", "kernel.json"),
    ("-m", "IPython", "-c", "%run -m diffai_jax.main"),
    ("/bin/ipython", "-m", _MODULE),
    ("-m", "pytest", "-m", _MODULE),
    ("-m", "cProfile", "-m", _MODULE),
    ("-c", "import diffai_jax.main", "-m", _MODULE),
    ("-Ic", "pass", "-m", _MODULE),
    ("-W", "-m", _MODULE),
    ("-", "-m", _MODULE),
    ("/y/diffai_jax/main.py",),
    ("-m",),
    ("-X",),
    (),
])
def test_somebody_elses_process(words):
  assert not _is_own(*words)
