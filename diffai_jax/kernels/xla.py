"""How XLA compiles: faster programs for CPUs, and none of them twice."""

from collections.abc import Mapping, Sequence
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import jaxlib

from diffai_jax.kernels import platforms

# Programs that compile faster are not worth a file.
_SHORTEST_SECONDS = 0.5

_FLAGS = dict(platforms.CPU.xla_flags)
_ANSWERS = "~/.cache/diffai_jax/xla_flags.json"
_MOST_SECONDS = 120  # That XLA may take to say whether it knows a flag.


def set_flags() -> None:
  """Adds what the installed XLA knows to XLA_FLAGS.

  Before JAX first uses a device, when XLA reads them. Leaves alone what is set
  already, and does nothing where programs may be for another platform than
  CPUs. The first time, with each release of jaxlib, XLA is asked in a process
  of its own: it ends one at the sight of a flag that it does not know.
  """
  words = os.environ.get("XLA_FLAGS", "").split()
  set_already = {word.lstrip("-").partition("=")[0] for word in words}
  wanted = [
      f"--{name}={value}"
      for name, value in _FLAGS.items()
      if name not in set_already
  ]
  if wanted and _is_for_cpus():
    os.environ["XLA_FLAGS"] = " ".join(words + _known(wanted))


def _is_for_cpus() -> bool:
  """Whether CPUs are all that JAX can use, or all that it is to use.

  Without asking JAX for its devices: XLA would read its flags.
  """
  asked = jax.config.jax_platforms
  if asked:
    return asked == "cpu"
  return not (
      importlib.metadata.entry_points(group="jax_plugins")
      or importlib.util.find_spec("jax_plugins")
      or importlib.util.find_spec("libtpu")
  )


def _known(flags: Sequence[str]) -> list[str]:
  """Those of the flags that the installed XLA knows; answers are remembered."""
  path = os.path.expanduser(_ANSWERS)
  about = f"jaxlib {jaxlib.__version__} {sys.platform} {platform.machine()}"
  answers = _remembered(path)
  own = answers.get(about)
  own = own if isinstance(own, dict) else {}
  if not all(isinstance(own.get(flag), bool) for flag in flags):
    # Usually all are known, and one process is enough.
    together = _is_known(flags)
    own = own | {flag: together or _is_known([flag]) for flag in flags}
    _remember(path, answers | {about: own})
  return [flag for flag in flags if own[flag]]


def _is_known(flags: Sequence[str]) -> bool:
  """Whether XLA starts with these flags, in a process of its own."""
  environment = os.environ | {
      "XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu",
  }
  try:
    return not subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        check=False, timeout=_MOST_SECONDS,
    ).returncode
  except (OSError, subprocess.SubprocessError):
    return False


def _remembered(path: str) -> dict:
  """What the file holds; nothing if it is missing, unreadable or damaged."""
  try:
    with open(path, encoding="utf-8") as file:
      answers = json.load(file)
  except (OSError, ValueError):
    return {}
  return answers if isinstance(answers, dict) else {}


def _remember(path: str, answers: dict) -> None:
  """Writes the file as a whole; where it cannot be, XLA is asked each time."""
  folder = os.path.dirname(path)
  try:
    os.makedirs(folder, exist_ok=True)
    handle, written = tempfile.mkstemp(dir=folder, prefix=".xla_flags")
    try:
      with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(answers, file, indent=1)
      os.replace(written, path)
    except OSError:
      os.unlink(written)
  except OSError:
    pass


# Takes back what XLA_FLAGS may have set.
_PLAIN = {"xla_disable_hlo_passes": ""}


def compiled(lowered):
  """Compiles a program with what its platform gains from, whatever XLA_FLAGS say.

  So a program that is called from Python, where no flag was set, is as fast as the
  command's. What XLA_FLAGS set stays, and what the installed XLA does not know is
  left out. A program that it cannot compile so is compiled without: XLA of JAX 0.12
  has no code for a barrier within some fusions, where barriers stay.

  Args:
    lowered: of jit or pmap, for the default platform.
  """
  words = os.environ.get("XLA_FLAGS", "").split()
  set_already = {word.lstrip("-").partition("=")[0] for word in words}
  options = {
      name: value
      for name, value in platforms.here().xla_flags.items()
      if name not in set_already and _is_option(name, value)
  }
  try:
    return lowered.compile(options or None)
  except jax.errors.JaxRuntimeError:
    plain = {n: v for n, v in _PLAIN.items() if _is_option(n, v)}
    return lowered.compile(plain or None)


@functools.cache
def _is_option(name: str, value: str) -> bool:
  """Whether the installed XLA takes an option for one program."""
  lowered = jax.jit(lambda x: x).lower(jax.ShapeDtypeStruct((), jnp.float32))
  try:
    lowered.compile({name: value})
  except jax.errors.JaxRuntimeError:
    return False
  return True


def computes_anew(options: Mapping[str, str] | None = None) -> bool:
  """Whether XLA leaves what `jax.checkpoint` runs a second time as it is.

  Its compiler for CPUs merges both runs, unless it takes the flag that switches
  that pass off. Found out with a small program, on the default device.

  Args:
    options: for the compiler, beside XLA_FLAGS.
  """

  @jax.checkpoint
  def stage(x, kernel):
    return jnp.tanh(x @ kernel)

  def loss(x, kernels):
    return jnp.sum(functools.reduce(stage, kernels, x) ** 2)

  x, kernels = jnp.ones((4, 4)), list(jnp.ones((2, 4, 4)))
  lowered = jax.jit(jax.grad(loss)).lower(x, kernels)
  program = lowered.compile(options).as_text()
  # Two products of each stage, forward and back; a third if it runs again.
  return program.count(" dot(") > 4


def use_cache(folder: str) -> None:
  """Keeps compiled programs in a folder, for this process and later ones.

  JAX finds them by the program, the versions and the kind of machine. Does
  nothing if JAX has a folder already (JAX_COMPILATION_CACHE_DIR), or this one
  cannot be written.

  Args:
    folder: where; "~" is the user's home, and an empty name is no cache.
  """
  if not folder or jax.config.jax_compilation_cache_dir:
    return
  folder = os.path.expanduser(folder)
  remote = "://" in folder  # JAX has its own way to stores of objects.
  try:
    if not remote:
      os.makedirs(folder, exist_ok=True)
  except OSError:
    return
  if remote or os.access(folder, os.W_OK):
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update(
        "jax_persistent_cache_min_compile_time_secs", _SHORTEST_SECONDS
    )
